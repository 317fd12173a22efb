"""Texts and strategies that the tests of tokenizers share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

SHARED_VOCABULARIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "vocab"

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces   three    four     five ",
    " " * 70 + "x" + " " * 33,
    "我爱中华人民共和国，因为它很大。",
    "こんにちは、世界。カタカナとひらがな",
    "안녕하세요 세계",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया, क्षत्रिय",
    "สวัสดีชาวโลก น้ำแข็ง",
    "Xin chào Việt Nam, Cửa Việt",
    "Привет, мир! Ёжик",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇨🇳🇫🇷 ☕️ 1️⃣",
    "def f(x):\n\treturn x**2  # 平方\n\n\nclass A:\n    pass\n",
    '{"a": [1, 2.5e-3, null], "b": "\\u4e2d\\n"}',
    "<h1>Title</h1> <br/> &amp; <!-- x -->",
    "\x00\x01\x02\x03\x04\x07\x08\x0b\x0c\x0e\x1b[31m\x7f\x80\x9f",
    "\t\t\tx\r\n\r\ny\n\n\n\n\nz\n \n  \n",
    "0 12 345 6789 1234567890 3.14159 1,000,000 ½ ² Ⅻ ٣٤",
    "it's we're I'VE y'all 'tis O'Neil don’t",
    "e\u0301 a\u0308o\u0308 \u1e9b\u0323 \uac00 \u1100\u1161\u11a8 ﬁ Å Å",
    "zero\u200bwidth no\u00a0break \u3000ideographic \u2028line \ufeff bom",
    "▁literal ▁▁ underscores ▁",
    "<0x41> <0xE4> <unk> </s>",
    "\U0001f9ff\U00010348\U0002f800\ufffd\uffff\U0010ffff",
    "Antidisestablishmentarianism" * 5,
]

_ALPHABETS = (
    "abcdefg ABC'", "  \n\t\r", "0123456789.,½Ⅻ²", "<|im_end|>[]{}()/\\#$%&!?-_",
    "我爱中国的一是，。", "こんにちカナ", "مرحبا", "नमस्ते", "สวัสดี",
    "👨‍👩‍👧🇨🇳☕️🏽", "e\u0301o\u0308\u1100\u1161", "\x00\x01\x06\x14\x1b\x7f\x85\xa0\u200b\u3000", "▁",
    "'s're've",
)  # fmt: skip


def mixed_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Seeded nonsense in a few scripts at a time, so that every kind of border between them occurs."""
    source = random.Random(seed)
    for _ in range(count):
        letters = "".join(source.sample(_ALPHABETS, 3))
        yield "".join(source.choices(letters, k=source.randint(1, 50)))


def texts() -> st.SearchStrategy[str]:
    """Any text that is valid Unicode, often in the scripts above."""
    anything = st.characters(exclude_categories=["Cs"])
    usual = st.sampled_from("".join(_ALPHABETS))
    return st.text(st.one_of(usual, anything), max_size=60)
