"""A number that knows where it comes from: its formula, what went into it, and how far to trust it."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Number = int | float

Certainty = Literal["exact", "measured", "calibrated", "assumed"]
"""How far a number can be trusted.

* exact: arithmetic over facts; any other tool that gives another number is wrong.
* measured: read off a machine or a run.
* calibrated: a formula that was fitted to measurements, or held against them.
* assumed: a published or customary value that nobody has checked here.
"""

#: From the strongest to the weakest: a sum is as certain as its weakest part.
CERTAINTIES: tuple[Certainty, ...] = ("exact", "measured", "calibrated", "assumed")

#: One character a certainty, for tables.
MARKS: Mapping[Certainty, str] = {"exact": "=", "measured": "!", "calibrated": "≈", "assumed": "~"}

_LARGEST_EXPONENT = 128  # of an integer; larger powers would take long and mean nothing


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and abs(exponent) > _LARGEST_EXPONENT:
        raise OverflowError(f"a power of {exponent} is too large")
    result: Number | complex = base**exponent
    if isinstance(result, complex):
        raise ArithmeticError(f"a negative number has no power of {exponent}")  # noqa: TRY004
    return result


_OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
}
_COUNTED = {"bytes", "parameters", "positions", "requests"}  # a whole number of these is an int
_SIGNS = str.maketrans({"·": "*", "×": "*", "÷": "/", "−": "-"})
_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class Amount:
    """A number with its formula. Made by `amount`, which computes what it shows.

    Attributes:
        value: The number.
        unit: Of what: bytes, parameters, FLOP, s, tokens/s, bytes/s, FLOP/s, positions, requests.
        formula: How it was computed, in the field's names: `2 · num_key_value_heads · head_dim · bytes`.
        inputs: The value of each name in the formula.
        certainty: How far to trust it.
        note: What a reader should know about it, or nothing.
    """

    value: Number
    unit: str
    formula: str
    inputs: Mapping[str, Number] = field(default_factory=dict)
    certainty: Certainty = "exact"
    note: str = ""

    @property
    def mark(self) -> str:
        """The certainty as one character."""
        return MARKS[self.certainty]

    def explain(self) -> str:
        """The formula with its numbers and the result: `2 · 8 · 128 · 32 · 2 = 131,072`.

        Arguments of functions are parted by semicolons, since the numbers hold commas.
        """

        def numbered(match: re.Match[str]) -> str:
            name = match[0]
            return plain(self.inputs[name]) if name in self.inputs else name

        shown = _NAME.sub(numbered, self.formula.replace(", ", "; "))
        result = plain(self.value)
        return result if shown == result else f"{shown} = {result}"

    def readable(self) -> str:
        """The value with its unit, for people: `4.58 GiB (4.91 GB)`, `8,030,261,248 (8.03 billion)`."""
        if self.unit == "bytes":
            return readable_bytes(self.value)
        if self.unit == "parameters":
            return readable_count(self.value)
        if self.unit in {"bytes/s", "FLOP", "FLOP/s", "FLOP/byte", "tokens/s"}:
            return scaled(self.value, self.unit.replace("bytes", "B"))
        if self.unit == "s":
            return f"{self.value * 1000:,.1f} ms" if self.value < 1 else f"{self.value:,.2f} s"
        unit = self.unit.removesuffix("s") if self.value == 1 else self.unit
        return f"{plain(self.value)} {unit}"

    def to_json(self) -> dict[str, object]:
        """The amount as a document."""
        return {
            "value": self.value,
            "unit": self.unit,
            "formula": self.formula,
            "inputs": dict(self.inputs),
            "explained": self.explain(),
            "certainty": self.certainty,
            "note": self.note,
        }


def amount(
    unit: str,
    formula: str,
    numbers: Mapping[str, Number] | None = None,
    /,
    *,
    certainty: Certainty = "exact",
    note: str = "",
    **inputs: Number,
) -> Amount:
    """Evaluates a formula, so that what is shown is what was computed.

    Args:
        unit: What the result counts.
        formula: Numbers, names, `+ - · × / // % **`, parentheses, `min`, `max`, `ceil` and `floor`.
        numbers: Values of names in the formula.
        certainty: How far to trust the result.
        note: What a reader should know about it.
        **inputs: Values of the other names. A value for a name that is not in the formula is an error.

    Returns:
        The amount.

    Raises:
        ValueError: The formula cannot be read or evaluated, or its names are not those of the inputs.
    """
    inputs = {**(numbers or {}), **inputs}
    tree, names = _parsed(formula)
    if names != inputs.keys():
        raise ValueError(f"the formula {formula!r} has the names {sorted(names)}, not {sorted(inputs)}")
    try:
        value = _value(tree, inputs)
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"the formula {formula!r} cannot be evaluated over {inputs}: {error}") from error
    if not isinstance(value, int) and not math.isfinite(value):
        raise ValueError(f"the formula {formula!r} over {inputs} gives {value}")
    if unit in _COUNTED and value == int(value):
        value = int(value)
    return Amount(value, unit, formula, inputs, certainty, note)


def total(parts: Mapping[str, Amount], *, unit: str = "bytes", note: str = "") -> Amount:
    """The sum of named amounts; as certain as the weakest of them.

    Args:
        parts: The summands; what a formula cannot name is replaced by underscores.
        unit: What they all count.
        note: What a reader should know about the sum.

    Raises:
        ValueError: A part counts something else, or two names become one.
    """
    for name, part in parts.items():
        if part.unit != unit:
            raise ValueError(f"{name} counts {part.unit}, not {unit}")
    inputs = {_identifier(name): part.value for name, part in parts.items()}
    if len(inputs) != len(parts):
        raise ValueError(f"two of these names read the same in a formula: {sorted(parts)}")
    # Not evaluated as a formula: hundreds of summands would nest too deep.
    value = sum(part.value for part in parts.values())
    return Amount(value, unit, " + ".join(inputs) or "0", inputs, weakest(*parts.values()), note)


def weakest(*amounts: Amount) -> Certainty:
    """The certainty of what is computed from all of these."""
    return max((each.certainty for each in amounts), key=CERTAINTIES.index, default="exact")


def readable_bytes(count: float) -> str:
    """A number of bytes in powers of 1024 and of 1000: `4.58 GiB (4.91 GB)`."""
    if abs(count) < 1000:
        return f"{count:,.0f} B"
    binary = _in_steps(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    decimal = _in_steps(count, 1000, ("B", "kB", "MB", "GB", "TB", "PB"))
    return f"{binary} ({decimal})"


def readable_count(count: float) -> str:
    """A number, and in words if it is long: `8,030,261,248 (8.03 billion)`."""
    return f"{plain(count)} ({in_words(count)})" if abs(count) >= 10**6 else plain(count)


def in_words(count: float) -> str:
    """A number to four digits: `8.03 billion`."""
    size, word = float(count), ""
    for following in ("thousand", "million", "billion", "trillion"):
        if abs(size) < 1000:
            break
        size, word = size / 1000, following
    return f"{size:,.4g} {word}".strip()


def scaled(count: float, unit: str) -> str:
    """A number with a prefix to its unit: `312 TFLOP/s`, `3.35 TB/s`."""
    size, prefix = count, ""
    for following in ("k", "M", "G", "T", "P", "E", "Z", "Y"):
        if abs(size) < 1000:
            break
        size, prefix = size / 1000, following
    return f"{size:,.4g} {prefix}{unit}"


def plain(value: Number) -> str:
    """A number with commas, without more digits than it has: `131,072`, `0.5625`, `3.35e+12`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _in_steps(count: float, step: int, units: tuple[str, ...]) -> str:
    size = float(count)
    for unit in units:
        if abs(size) < step or unit == units[-1]:
            break
        size /= step
    digits = 0 if unit == "B" else 2 if abs(size) < 100 else 1
    return f"{size:,.{digits}f} {unit}"


def _identifier(name: str) -> str:
    """A name that a formula can hold."""
    word = re.sub(r"\W+", "_", name).strip("_") or "_"
    word = re.sub(r"^(\d+)_(.+)", r"\2_\1", word)  # "40 full" is full_40
    return f"_{word}" if word[0].isdigit() or word in _FUNCTIONS else word


@lru_cache(maxsize=1024)
def _parsed(formula: str) -> tuple[ast.expr, frozenset[str]]:
    """A formula's tree and the names in it."""
    try:
        tree = ast.parse(formula.translate(_SIGNS).strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"the formula {formula!r} cannot be read: {error.msg}") from error
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    return tree, frozenset(names)


def _value(node: ast.expr, inputs: Mapping[str, Number]) -> Number:
    """The value of a tree, of the few kinds of nodes that formulas have."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return inputs[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, inputs), _value(right, inputs))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, inputs)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(argument, inputs) for argument in arguments))
    raise ValueError(f"a formula cannot hold {ast.unparse(node)!r}")
