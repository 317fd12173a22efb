"""Finds out which message each character of a rendered conversation came from.

A template is a program, so the question cannot be answered by reading it. It is answered by experiment. The
conversation is rendered as it is, and once more with every content replaced by a marker: one character from
    the
private use area that occurs nowhere, between two rare spaces. Around each marker the second text shows which
of the spaces the template kept, and so whether it trims. Putting the contents, so trimmed, in the place of
the markers must give the first text, character by character. Then their places are known.

If it does not (a template may cut, quote or test contents), each content is marked alone, in a render of its
own. What stands before and after the marker must be the beginning and the end of the first text, and what is
between must be a part of that content. A content for which this fails too has no span. So a span may be
missing, but what one says has been checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from boli.errors import TemplateError
from boli.text.template import Rendered, Span

_LEFT, _RIGHT = "\u2003\u2002", "\u2002\u2003"
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_MOST_SINGLE_RENDERS = 64
_BRIEF_REQUEST_BYTES = 1 << 20

Render = Callable[[Sequence[Mapping[str, object]]], list[str | None]]


@dataclass(frozen=True)
class _Content:
    """One text in a message: its content, or one part of it.

    Attributes:
        message: The index of the message.
        part: The index of the part where the content is a list of parts.
        text: What it says.
        marker: The character that stands for it.
    """

    message: int
    part: int | None
    text: str
    marker: str


def trace(values: Mapping[str, object], render: Render) -> Rendered:
    """Render and trace a conversation.

    Args:
        values: The variables of the template, among them the `messages`.
        render: Renders several sets of variables; None for one after the first that fails.
    """
    contents = _contents(values)
    marked = {c: _LEFT + c.marker + _RIGHT for c in contents}
    try:
        text, template = render([values, _replace(values, marked)])
    except TemplateError:
        # Twice may be too much, in size or in time, where once is not.
        text, template, contents = render([values])[0], None, []
    text = text or ""
    found = _all_at_once(text, template or "", contents)
    if found is None:
        found = _one_by_one(text, values, contents, render)
    return Rendered(text, _cover(found, len(text)))


def _all_at_once(text: str, template: str, contents: Sequence[_Content]) -> list[Span] | None:
    """Put the contents in the place of their markers; None unless that gives the text."""
    by_marker = {content.marker: content for content in contents}
    markers = "".join(by_marker)
    if not markers:
        return []
    pattern = re.compile(f"({_LEFT})?([{markers}])({_RIGHT})?")
    spans = []
    written = []
    length = done = 0
    for match in pattern.finditer(template):
        content = by_marker[match[2]]
        shown = content.text if match[1] else content.text.lstrip()
        shown = shown if match[3] else shown.rstrip()
        literal = template[done : match.start()]
        start = length + len(literal)
        length = start + len(shown)
        done = match.end()
        written += [literal, shown]
        spans.append(Span(start, length, content.message))
    written.append(template[done:])
    return spans if "".join(written) == text else None


def _one_by_one(
    text: str, values: Mapping[str, object], contents: Sequence[_Content], render: Render
) -> list[Span]:
    """Mark each content alone; only those whose surroundings stay as they were have a span."""
    size = len(json.dumps(values))
    most = min(_MOST_SINGLE_RENDERS, _BRIEF_REQUEST_BYTES // max(size, 1))
    tried = contents[:most]
    if not tried:
        return []
    # The plain render goes first again: the failure of another, after it, is no error.
    try:
        templates = render([values, *(_replace(values, {c: c.marker}) for c in tried)])[1:]
    except TemplateError:
        return []
    spans: list[Span] = []
    for content, template in zip(tried, templates, strict=True):
        before, marker, after = (template or "").partition(content.marker)
        start, end = len(before), len(text) - len(after)
        if (
            marker
            and content.marker not in after
            and start < end
            and text.startswith(before)
            and text.endswith(after)
            and text[start:end] in content.text
        ):
            spans.append(Span(start, end, content.message))
    spans.sort(key=lambda span: span.start)
    # Two that claim the same characters cannot both be right.
    return [
        span
        for index, span in enumerate(spans)
        if not any(o.start < span.end and span.start < o.end for o in spans[:index] + spans[index + 1 :])
    ]


def _contents(values: Mapping[str, object]) -> list[_Content]:
    """All texts in the messages that are not blank, each with a marker that occurs nowhere in the request."""
    texts: list[tuple[int, int | None, str]] = []
    for message, fields in enumerate(_messages(values)):
        content = fields.get("content")
        parts = content if isinstance(content, list) else []
        if isinstance(content, str):
            texts.append((message, None, content))
        for part, value in enumerate(parts):
            if isinstance(value, Mapping) and isinstance(value.get("text"), str):
                texts.append((message, part, value["text"]))
    used = set(json.dumps(values, ensure_ascii=False, default=str))
    free = (chr(point) for point in _PRIVATE_USE if chr(point) not in used)
    return [_Content(m, p, text, next(free)) for m, p, text in texts if text.strip()]


def _replace(values: Mapping[str, object], texts: Mapping[_Content, str]) -> dict[str, object]:
    """The variables with other texts in the messages; nothing given is changed."""
    messages = [dict(message) for message in _messages(values)]
    for content, text in texts.items():
        fields = messages[content.message]
        parts = fields["content"]
        if content.part is None:
            fields["content"] = text
        elif isinstance(parts, list):
            changed = {**parts[content.part], "text": text}
            fields["content"] = [*parts[: content.part], changed, *parts[content.part + 1 :]]
    return {**values, "messages": messages}


def _messages(values: Mapping[str, object]) -> list[dict[str, object]]:
    messages = values["messages"]
    return messages if isinstance(messages, list) else []


def _cover(spans: Sequence[Span], length: int) -> list[Span]:
    """Fill what no message claims, so that the spans cover the text."""
    whole = []
    done = 0
    for span in [*(span for span in spans if span.end > span.start), Span(length, length, None)]:
        if span.start > done:
            whole.append(Span(done, span.start, None))
        if span.end > span.start:
            whole.append(span)
        done = span.end
    return whole
