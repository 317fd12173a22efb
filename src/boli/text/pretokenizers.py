r"""How each byte-level vocabulary cuts a text into words before merging.

GGUF names the cut in `tokenizer.ggml.pre`. The patterns are data that belong to the models: they are taken
from the models' own `tokenizer.json` where that is known (Llama 3, Qwen 2, GPT-2, StarCoder, Command R,
Falcon, Tekken, DeepSeek) and agree with those of llama.cpp, which coined the names. An unknown name is
refused, because a wrong cut gives text that looks right and ids that the model was not trained on.

Two things go beyond llama.cpp and follow the models: Unicode composition (NFC), which Qwen 2, Command R and
the GPT-NeoX vocabularies were trained with, and Tekken's letter classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from boli.errors import UnsupportedModel

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
# The cased letters that DeepSeek LLM lists one by one, as code points: an older Unicode's letters with case.
_DEEPSEEK_LETTERS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376-377 37B-37D 37F 386 388-38A"
    " 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF"
    " 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D"
    " 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4"
    " 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F"
    " 2145-2149 214E 2183-2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2-2CF3 A640-A66D A680-A69B A722-A76F"
    " A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3"
    " 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_DEEPSEEK_SIGNS = "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
_DEEPSEEK_CJK = "4E00-9FA5 800-4E00 AC00-D7FF"


def _class(ranges: str) -> str:
    """A character class from code points and ranges of them, in hexadecimal."""
    borders = ("-".join(rf"\x{{{point}}}" for point in part.split("-")) for part in ranges.split())
    return f"[{''.join(borders)}]"


@dataclass(frozen=True)
class PreTokenizer:
    """The cut of a text into words, inside which merges happen.

    Attributes:
        patterns: Regular expressions, applied one after the other. Each cuts the pieces that the one before
            left into its matches and what lies between them.
        nfc: Compose the text to NFC first.
        whole_words: A word that is a token needs no merging (`ignore_merges`).
        add_bos: Put the beginning-of-sequence token first where the file does not say.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False
    add_bos: bool = False

    @cached_property
    def _splitter(self) -> Any:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # noqa: PLC0415 (0.04 s)

        # A tokenizer of a vocabulary without words: each word becomes one token, of which only the span is
        # of use. Tokenizers encode batches without the GIL; the cut alone would hold it.
        splitter = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        splitter.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        )
        return splitter

    def words(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        """Each word with its span (start, end) in characters."""
        spans: list[tuple[int, int]] = self._splitter.encode_batch([text], add_special_tokens=False)[
            0
        ].offsets
        return [(text[start:end], (start, end)) for start, end in spans]


_GPT2_CUT = PreTokenizer((_GPT2,))
_NEOX_CUT = PreTokenizer((_GPT2,), nfc=True)
_LLAMA3_CUT = PreTokenizer((_LLAMA3,), whole_words=True, add_bos=True)
_DIGITS_CUT = PreTokenizer((r"\p{N}", _GPT2))

PRE_TOKENIZERS = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": _GPT2_CUT,
    "phi-2": _GPT2_CUT,
    "mpt": _NEOX_CUT,
    "olmo": _NEOX_CUT,
    "smollm": _DIGITS_CUT,
    "starcoder": _DIGITS_CUT,
    "refact": _DIGITS_CUT,
    "command-r": PreTokenizer((r"\p{N}", _GPT2), nfc=True),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "llama3": _LLAMA3_CUT,
    "llama-v3": _LLAMA3_CUT,
    "llama-bpe": _LLAMA3_CUT,
    "dbrx": PreTokenizer((_LLAMA3,)),
    "smaug-bpe": PreTokenizer((_LLAMA3,)),
    "qwen2": PreTokenizer((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
    "stablelm2": PreTokenizer((_QWEN2,)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?{_class(_DEEPSEEK_LETTERS)}+",
            rf"\s?{_class(_DEEPSEEK_SIGNS)}+",
            r"\s+$",
            f"{_class(_DEEPSEEK_CJK)}+",
            r"\p{N}",
        )
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"{_class(_DEEPSEEK_CJK)}+", r"\p{N}")
    ),
    "deepseek-v3": PreTokenizer((r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+", _DEEPSEEK3)),
}
"""The cuts by the names that GGUF files give them (`tokenizer.ggml.pre`)."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """The cut of a name.

    Raises:
        UnsupportedModel: The name is not known.
    """
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        raise UnsupportedModel(
            f"the pre-tokenizer {name!r} is not supported",
            cause="the file cuts text into words in a way that boli has no exact rule for",
            remedy=f"use a model with one of: {', '.join(sorted(PRE_TOKENIZERS))}",
        )
    return found
