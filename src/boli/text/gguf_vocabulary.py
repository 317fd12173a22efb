"""Vocabularies in GGUF files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from boli.errors import CorruptFile, UnsupportedModel
from boli.text.bytelevel import ByteLevelBPE
from boli.text.ends import named_ends
from boli.text.pretokenizers import pre_tokenizer
from boli.text.sentencepiece import SentencePieceBPE
from boli.text.template import ChatTemplate
from boli.text.tokenizer import Tokenizer
from boli.text.vocabulary import TokenKind, Vocabulary, byte_of

_OTHER_MODELS = {"t5": "Unigram", "bert": "WordPiece", "rwkv": "RWKV", "plamo2": "PLaMo 2", "none": "no"}
T = TypeVar("T")


class HasMetadata(Protocol):
    """An open GGUF file."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """Its key-value pairs; arrays are sequences."""


def load_gguf(file: HasMetadata) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    Raises:
        UnsupportedModel: Another kind of vocabulary, or an unknown pre-tokenizer; named.
        CorruptFile: Entries, scores and kinds that do not fit together, or ids outside the vocabulary.
    """
    return _Reader(file).tokenizer()


class _Reader:
    """Reads and checks `tokenizer.ggml.*`."""

    def __init__(self, file: HasMetadata) -> None:
        self._path = file.path
        self._metadata = file.metadata
        self.tokens = self._array("tokens", str)
        kinds = self._array("token_type", int) if self._has("token_type") else []
        self._same_length("token_type", kinds)
        normal = int(TokenKind.NORMAL)
        self.kinds = {token: kind for token, kind in enumerate(kinds) if kind != normal}
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        # Padding entries may be empty; they can be produced, but no text leads to them.
        empty = self.tokens.count("") if self.ids.pop("", None) is not None else 0
        if len(self.ids) + empty < len(self.tokens):
            raise self._corrupt("two entries of the vocabulary are the same")
        self.bytes = {self._byte(t): t for t, kind in self.kinds.items() if kind == TokenKind.BYTE}

    def tokenizer(self) -> Tokenizer:
        model = self._get("model", str, None)
        if model == "gpt2":
            return self._byte_level()
        if model == "llama":
            return self._sentencepiece()
        raise UnsupportedModel(
            f"the vocabulary of {self._path.name} is of the kind {model!r}"
            + (f" ({_OTHER_MODELS[model]} vocabulary)" if model in _OTHER_MODELS else ""),
            cause="boli knows byte-level BPE (gpt2) and SentencePiece BPE (llama) in GGUF files",
            remedy="use a model with one of these",
        )

    def _byte_level(self) -> Tokenizer:
        cut = pre_tokenizer(self._get("pre", str, "default"))
        merges = self._array("merges", str)
        encoder = ByteLevelBPE(
            self._without(self.ids, TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.BYTE),
            dict(zip(merges, range(len(merges)), strict=True)),
            cut,
        )
        if self._get("add_space_prefix", bool, False):
            raise UnsupportedModel(
                f"{self._path.name} adds a space before its byte-level text", cause="add_space_prefix is true"
            )
        codec = Vocabulary(self.tokens, self.kinds, encoder, spells_bytes=True, strips_leading_space=False)
        return self._assemble(codec, "bpe", bos=self._id("bos_token_id", None), add_bos=cut.add_bos)

    def _sentencepiece(self) -> Tokenizer:
        if self._has("precompiled_charsmap") and len(self._array("precompiled_charsmap", int)):
            raise UnsupportedModel(
                f"{self._path.name} normalizes its text by a table of its own",
                cause="tokenizer.ggml.precompiled_charsmap is set",
            )
        scores = self._array("scores", float)
        self._same_length("scores", scores)
        if not math.isfinite(sum(scores)):
            raise self._corrupt("a score of the vocabulary is not finite")
        complete = [self.bytes[byte] for byte in range(256) if byte in self.bytes]
        space = self._get("add_space_prefix", bool, True)
        encoder = SentencePieceBPE(
            self._without(self.ids, TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.BYTE),
            scores,
            unused=frozenset(token for token, kind in self.kinds.items() if kind == TokenKind.UNUSED),
            byte_ids=complete if len(complete) == 256 else None,
            unknown_id=self._id("unknown_token_id", 0) or 0,
            add_space_prefix=space,
        )
        codec = Vocabulary(
            self.tokens,
            self.kinds,
            encoder,
            spells_bytes=False,
            strips_leading_space=space,
            collapses_spaces=self._get("remove_extra_whitespaces", bool, False),
        )
        bos = self._id("bos_token_id", 1 if self.kinds.get(1) == TokenKind.CONTROL else None)
        return self._assemble(codec, "spm", bos=bos, add_bos=True)

    def _assemble(self, codec: Vocabulary, kind: str, *, bos: int | None, add_bos: bool) -> Tokenizer:
        eos = self._id("eos_token_id", None)
        named = {"bos": bos, "eos": eos, "unk": self._id("unknown_token_id", None)}
        named |= {"pad": self._id("padding_token_id", None), "sep": self._id("seperator_token_id", None)}
        ends = {eos, self._id("eot_token_id", None), self._id("eom_token_id", None)} - {None}
        control = {self.tokens[t]: t for t, k in self.kinds.items() if k == TokenKind.CONTROL}
        template = self._metadata.get("tokenizer.chat_template")
        add_bos = self._get("add_bos_token", bool, add_bos)
        add_eos = self._get("add_eos_token", bool, False)
        return Tokenizer(
            codec,
            kind=kind,
            bos_token_id=bos,
            eos_token_ids=named_ends(control) | {end for end in ends if end is not None},
            prefix_ids=[bos] if add_bos and bos is not None else [],
            suffix_ids=[eos] if add_eos and eos is not None else [],
            chat_template=ChatTemplate(
                template,
                variables={f"{n}_token": self.tokens[t] for n, t in named.items() if t is not None},
                tool_source=self._tool_template(),
            )
            if isinstance(template, str)
            else None,
        )

    def _tool_template(self) -> str | None:
        template = self._metadata.get("tokenizer.chat_template.tool_use")
        return template if isinstance(template, str) else None

    def _without(self, ids: dict[str, int], *kinds: TokenKind) -> dict[str, int]:
        """The entries that merging can produce."""
        left = dict(ids)
        for token, kind in self.kinds.items():
            if kind in kinds:
                left.pop(self.tokens[token], None)
        return left

    def _has(self, name: str) -> bool:
        return f"tokenizer.ggml.{name}" in self._metadata

    def _get(self, name: str, kind: type[T], default: T) -> T:
        value = self._metadata.get(f"tokenizer.ggml.{name}", default)
        if value is not default and not isinstance(value, kind):
            raise self._corrupt(f"tokenizer.ggml.{name} is no {kind.__name__}")
        return value

    def _id(self, name: str, default: int | None) -> int | None:
        token = self._get(name, int, default)
        # 2^32 - 1 is how some writers spell "none".
        if token is None or token == 0xFFFFFFFF:
            return None
        if not 0 <= token < len(self.tokens):
            raise self._corrupt(
                f"tokenizer.ggml.{name} is {token}, but the vocabulary has {len(self.tokens)} entries"
            )
        return token

    def _array(self, name: str, kind: type[T]) -> list[T]:
        value = self._metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self._corrupt(f"tokenizer.ggml.{name} is missing or is no array")
        items = list(value)
        if items and not isinstance(items[0], kind):
            raise self._corrupt(f"tokenizer.ggml.{name} is no array of {kind.__name__}")
        return items

    def _same_length(self, name: str, array: Sequence[object]) -> None:
        if len(array) not in (0, len(self.tokens)):
            raise self._corrupt(
                f"tokenizer.ggml.{name} has {len(array)} items for {len(self.tokens)} vocabulary entries"
            )

    def _byte(self, token: int) -> int:
        try:
            return byte_of(self.tokens[token])
        except ValueError:
            raise self._corrupt(f"the byte token {token} is not spelt <0xHH>") from None

    def _corrupt(self, what: str) -> CorruptFile:
        return CorruptFile(what, cause=f"in the vocabulary of {self._path}", remedy="get the file again")
