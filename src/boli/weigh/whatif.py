"""What would change if something were different: `context=32768`, `kv=int8`, `num_key_value_heads=4`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from boli.errors import UsageError
from boli.weigh.account import Account, Question, answer
from boli.weigh.compare import compare
from boli.weigh.configured import NAMES, OTHERS
from boli.weigh.views import Section

# What may be changed: the field of the question, or the option of training, and whether it is a number.
_FIELDS: Final[Mapping[str, tuple[str, bool]]] = {
    "context": ("context", True),
    "requests": ("requests", True),
    "device": ("device", False),
    "weights": ("weights", False),
    "kv": ("kv_dtype", False),
    "engine": ("engine", False),
    "threads": ("threads", True),
}
_TRAINING: Final[Mapping[str, tuple[str, bool]]] = {
    "batch": ("micro_batch", True),
    "sequence": ("sequence_length", True),
    "recipe": ("recipe", False),
    "zero": ("zero", True),
    "devices": ("devices", True),
    "recompute": ("recompute", False),
    "attention": ("attention", False),
    "rank": ("rank", True),
    "lora": ("targets", False),
    "tokens": ("tokens", True),
}


def what_if(account: Account, changes: Sequence[str]) -> list[tuple[Section, Account]]:
    """The account beside each change alone, and beside all together if there are several.

    Args:
        account: As things are.
        changes: Such as "context=32768".

    Raises:
        UsageError: A change cannot be read, or makes no sense.
    """
    sections = []
    everything = account.question
    for change in changes:
        everything = changed(everything, change)
        sections.append(_beside(account, changed(account.question, change), change))
    if len(changes) > 1:
        sections.append(_beside(account, everything, ", ".join(changes)))
    return sections


def _beside(now: Account, question: Question, change: str) -> tuple[Section, Account]:
    """Before and after a change, by the same engine's rules."""
    then = answer(question)
    notes = []
    if then.engine != now.engine:
        notes.append(f"both go by the rules of '{then.engine}': those of '{now.engine}' do not cover it")
        now = answer(replace(now.question, engine=then.engine))
    section = compare(now, then, title=f"What if {change}", names=("now", "then"), changes_only=True)
    return replace(section, notes=[*section.notes, *notes]), then


def changed(question: Question, change: str) -> Question:
    """A question with one thing different.

    Raises:
        UsageError: There is no such thing, or its value is no number where one is wanted.
    """
    name, equals, value = (part.strip() for part in change.partition("="))
    if not equals or not value:
        raise UsageError(
            f"'{change}' is no change", remedy="write it as name=value, such as context=32768 or kv=int8"
        )
    if name in _FIELDS:
        field, numeric = _FIELDS[name]
        fields: dict[str, object] = {field: whole(name, value) if numeric else value}
        return replace(question, **fields)  # type: ignore[arg-type]
    if name in _TRAINING:
        field, numeric = _TRAINING[name]
        option = whole(name, value) if numeric else value
        return replace(question, training={**question.training, field: option})
    if name in NAMES or name in OTHERS:
        return replace(question, shapes={**question.shapes, name: shape(name, value)})
    known = [*_FIELDS, *_TRAINING, *NAMES, *OTHERS]
    close = difflib.get_close_matches(name, known, n=2)
    raise UsageError(
        f"nothing is called '{name}' that could be different",
        remedy=f"did you mean {' or '.join(close)}?" if close else f"it may be one of {', '.join(known)}",
    )


def whole(name: str, value: str) -> int:
    """A whole number, thousands parted by commas or underscores if one likes.

    Raises:
        UsageError: It is none.
    """
    try:
        return int(value.replace(",", ""))
    except ValueError as error:
        raise UsageError(f"{name} must be a whole number, not '{value}'") from error


def shape(name: str, value: str) -> object:
    """The value of a shape: a whole number, a truth value or a word."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if name in ("architecture", "dtype"):
        return value
    return whole(name, value)
