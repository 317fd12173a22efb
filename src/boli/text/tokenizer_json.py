"""Model folders in the Hugging Face layout: `tokenizer.json` and the files around it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boli.errors import CorruptFile, ModelNotFound, TextError, UnsupportedModel
from boli.text.bytelevel import unspell
from boli.text.ends import named_ends
from boli.text.sentencepiece import SPACE
from boli.text.template_files import folder_template, read_json
from boli.text.tokenizer import Tokenizer
from boli.text.vocabulary import byte_of

MAX_TOKENIZER_BYTES = 256 << 20
"""Largest `tokenizer.json` that is read; those in use are below 40 MB."""
_PROBES = ("a", "0", " ", "的", "!")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class JSONCodec:
    """A vocabulary that the `tokenizers` package encodes with.

    Decoding does not go through the package: bytes are joined and read as UTF-8, the same for all
        vocabularies,
    which is what makes exact streaming possible.

    Args:
        backend: A `tokenizers.Tokenizer` without padding and truncation.
        name: The file, for messages.

    Raises:
        UnsupportedModel: A decoder whose tokens do not stand for bytes by themselves.
    """

    def __init__(self, backend: Any, name: str) -> None:
        self._backend = backend
        self._added = {token: added.content for token, added in backend.get_added_tokens_decoder().items()}
        self._special = frozenset(
            token for token, added in backend.get_added_tokens_decoder().items() if added.special
        )
        self.vocab_size = max(backend.get_vocab_size(), 1 + max(self._added, default=-1))
        steps = _steps(json.loads(backend.decoder.__getstate__()) if backend.decoder else {"type": "None"})
        kinds = [step.get("type") for step in steps]
        self.spells_bytes = kinds == ["ByteLevel"]
        if not self.spells_bytes and not {"Metaspace", "Replace"} & set(kinds):
            raise UnsupportedModel(
                f"{name} decodes tokens in a way that boli does not know",
                cause=f"its decoder is {' + '.join(map(str, kinds))}",
                remedy="use a model with a byte-level or SentencePiece vocabulary",
            )
        self._falls_back_to_bytes = "ByteFallback" in kinds
        self.strips_leading_space = any(
            (step["type"] == "Strip" and step.get("start", 0) > 0)
            or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in steps
        )
        self._lock = threading.Lock()

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._encode("encode_batch_fast", text, parse_special).ids
        return ids

    def spans(self, text: str, *, parse_special: bool) -> list[tuple[int, int, int]]:
        """`(id, start, end)` of each token, in characters."""
        encoding = self._encode("encode_batch", text, parse_special)
        return [(token, *span) for token, span in zip(encoding.ids, encoding.offsets, strict=True)]

    def piece(self, token: int) -> str | None:
        """The entry of an id."""
        entry: str | None = self._backend.id_to_token(token) if token < self.vocab_size else None
        return entry

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id stands for."""
        entry = self.piece(token)
        if entry is None:
            return b""
        if self.spells_bytes:
            return entry.encode() if token in self._added else unspell(entry)
        if self._falls_back_to_bytes and token not in self._added:
            try:
                return bytes((byte_of(entry),))
            except ValueError:
                pass  # an ordinary entry
        return entry.replace(SPACE, " ").encode()

    def is_special(self, token: int) -> bool:
        """Whether an id is a control token."""
        return token in self._special

    def _encode(self, how: str, text: str, parse_special: bool) -> Any:
        # Reading control tokens or not is a setting of the shared object, not of the call.
        with self._lock:
            self._backend.encode_special_tokens = not parse_special
            try:
                # A batch of one, because only batches are encoded without the GIL: a megabyte of prompt
                # would stop all other threads for seconds.
                return getattr(self._backend, how)([text], add_special_tokens=False)[0]
            except Exception as error:
                raise TextError("the tokenizer failed", cause=str(error)) from error


def load_folder(folder: Path) -> Tokenizer:
    """Build the tokenizer of a model folder.

    Reads `tokenizer.json`, and where they are there `tokenizer_config.json`, `special_tokens_map.json`,
    `generation_config.json`, `config.json` and the chat template.

    Raises:
        ModelNotFound: There is no `tokenizer.json`.
        CorruptFile: A file is not what it should be.
        UnsupportedModel: A kind of vocabulary that boli does not know.
    """
    backend = _backend(folder / "tokenizer.json")
    config = read_json(folder / "tokenizer_config.json")
    names = _named_tokens(read_json(folder / "special_tokens_map.json")) | _named_tokens(config)
    known = {name: text for name, text in names.items() if backend.token_to_id(text) is not None}
    # A token that the configuration names is a control token even where tokenizer.json forgets to say so.
    backend.add_special_tokens(sorted(set(known.values())))
    codec = JSONCodec(backend, str(folder / "tokenizer.json"))
    bos = backend.token_to_id(known["bos_token"]) if "bos_token" in known else None
    ends = {backend.token_to_id(known["eos_token"])} if "eos_token" in known else set()
    for file in ("generation_config.json", "config.json"):
        ends |= _end_ids(read_json(folder / file), codec.vocab_size)
    special = {a.content: t for t, a in backend.get_added_tokens_decoder().items() if a.special}
    prefix, suffix = _added_around(backend)
    return Tokenizer(
        codec,
        kind="bpe" if codec.spells_bytes else "unigram" if _is_unigram(backend) else "spm",
        bos_token_id=bos,
        eos_token_ids=named_ends(special) | ends,
        prefix_ids=prefix,
        suffix_ids=suffix,
        chat_template=folder_template(folder, config, known),
    )


def _backend(path: Path) -> Any:
    from tokenizers import Tokenizer as Backend  # noqa: PLC0415 (0.04 s)

    if not path.is_file():
        raise ModelNotFound(
            f"{path.parent} has no tokenizer.json",
            cause="boli reads no other tokenizer files (tokenizer.model, vocab.json)",
            remedy="get the model's tokenizer.json, or make one with transformers: save_pretrained writes it",
        )
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise CorruptFile(f"{path} is {path.stat().st_size:,} bytes large", cause="no tokenizer is")
    try:
        backend = Backend.from_file(str(path))
    except BaseException as error:
        # A panic in Rust is no Exception. Everything else that is none (Ctrl-C) goes on.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CorruptFile(f"{path} is not a tokenizer", cause=str(error), remedy="get it again") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _is_unigram(backend: Any) -> bool:
    return type(backend.model).__name__ == "Unigram"


def _steps(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a decoder, which may be one or a sequence."""
    if decoder.get("type") == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _added_around(backend: Any) -> tuple[list[int], list[int]]:
    """What the post-processor puts before and after a text."""
    # A probe that the vocabulary has no token for would not tell the front from the back.
    probe = next((p for p in _PROBES if backend.encode(p, add_special_tokens=False).ids), "")
    plain = backend.encode(probe, add_special_tokens=False).ids
    whole = backend.encode(probe).ids
    if not plain:
        return whole, []
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise UnsupportedModel("the tokenizer's post-processor changes the text's own tokens")


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the named special tokens; each is a string or an object with its `content`."""
    named = {}
    for name in _NAMED_TOKENS:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            named[name] = text
    return named


def _end_ids(config: Mapping[str, Any], vocab_size: int) -> set[int]:
    value = config.get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    return {token for token in ids if type(token) is int and 0 <= token < vocab_size}
