"""llama.cpp's grammars: telling them from Lark, and what its converter does not know.

llguidance brings a converter from GBNF to its dialect of Lark. It reads a stranger's text by recursion and
in time that may grow with its square, so it runs in the worker of `grammar_check.py`, like the compiler.
"""

from __future__ import annotations

import re
from typing import Final

_RULE: Final = re.compile(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


def is_gbnf(source: str) -> bool:
    """Whether a grammar has a rule in the form of GBNF, `name ::= …`, which no line of Lark has."""
    return _RULE.search(source) is not None


def plain_escapes(source: str) -> str:
    r"""Writes `\u0041` as `\x41`, and what is not ASCII as itself: the converter loses leading zeros."""

    def plain(found: re.Match[str]) -> str:
        digits = found[1] or found[2]
        code = int(digits, 16) if digits else -1
        if 0 <= code < 0x80:
            return f"\\x{code:02x}"
        if code < 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
            return found[0]
        return chr(code)

    return _ESCAPE.sub(plain, source)
