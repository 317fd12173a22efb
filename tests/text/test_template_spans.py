"""Which message a character comes from: right, or not claimed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import TemplateError
from boli.text import ChatTemplate, Rendered
from text.templates import CONVERSATIONS, TEMPLATES

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def check(rendered: Rendered) -> dict[int, list[str]]:
    """Spans cover the text in order; returns the texts by message."""
    spans = rendered.spans
    assert (spans[0].start, spans[-1].end) == (0, len(rendered.text)) if rendered.text else spans == []
    assert all(a.end == b.start for a, b in itertools.pairwise(spans))
    assert all(span.start < span.end for span in spans)
    found: dict[int, list[str]] = {}
    for span in spans:
        if span.message_index is not None:
            found.setdefault(span.message_index, []).append(rendered.text[span.start : span.end])
    return found


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_what_a_span_says_is_in_the_message(template: str, conversation: str) -> None:
    ours, messages = ChatTemplate(TEMPLATES[template], variables=SPECIAL), CONVERSATIONS[conversation]
    try:
        text = ours.render(messages)
    except TemplateError:
        with pytest.raises(TemplateError):
            ours.render_with_spans(messages)
        return
    rendered = ours.render_with_spans(messages)
    assert rendered.text == text
    for index, parts in check(rendered).items():
        content: Any = messages[index]["content"]
        whole = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
        assert all(part in whole for part in parts)


@pytest.mark.parametrize("template", ["chatml", "llama 3", "llama 2", "qwen 2.5", "qwen 3", "gemma 3"])
def test_all_contents_are_found(template: str) -> None:
    ours = ChatTemplate(TEMPLATES[template], variables=SPECIAL)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  user\n"},
        {"role": "assistant", "content": "assistant"},
        {"role": "user", "content": "user"},  # the word also stands in the headers
    ]
    found = {
        index: "".join(parts).strip() for index, parts in check(ours.render_with_spans(messages)).items()
    }
    assert found == {0: "Be brief.", 1: "user", 2: "assistant", 3: "user"}


def test_headers_are_not_content() -> None:
    rendered = ChatTemplate(TEMPLATES["chatml"]).render_with_spans([{"role": "user", "content": "user"}])
    (content,) = [span for span in rendered.spans if span.message_index == 0]
    assert rendered.text[: content.start].endswith("<|im_start|>user\n")
    assert rendered.text[content.end :].startswith("<|im_end|>")
    assert rendered.message_of(content.start, content.end) == 0
    assert rendered.message_of(content.start + 1, content.start + 2) == 0
    assert rendered.message_of(content.start - 1, content.end) is None
    assert rendered.message_of(0, 1) is None
    assert rendered.message_of(content.start, content.start) == 0


def test_a_trimmed_content_has_the_span_of_what_is_left() -> None:
    template = ChatTemplate("[{{ messages[0].content | trim }}]({{ messages[0].content }})")
    rendered = template.render_with_spans([{"role": "user", "content": " a b\n"}])
    assert check(rendered) == {0: ["a b", " a b\n"]}


def test_a_content_that_is_cut_is_found_alone() -> None:
    messages = CONVERSATIONS["thoughts"]
    found = check(ChatTemplate(TEMPLATES["qwen 3"]).render_with_spans(messages))
    assert found[0] == ["1+1"]
    assert found[1] == ["2"]  # what followed the thought
    assert found[2] == ["and 2+2?"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content | upper }}",
        "{{ messages[0].content | tojson }}",
        "{{ messages[0].content | replace('o', '0') }}",
        "{{ messages[0].content | length }}",
        "{% if messages[0].content == 'foo \"x\"' %}other{% else %}{{ messages[0].content }}{% endif %}",
        "{{ messages[0].content[::-1] }}",
        "{{ messages[0].content.split() | join('_') }}",
        "fixed",
    ],
)
def test_a_content_that_is_changed_is_not_claimed(source: str) -> None:
    rendered = ChatTemplate(source).render_with_spans([{"role": "user", "content": 'foo "x"'}])
    assert check(rendered) == {}


def test_a_template_that_fails_on_markers_still_renders() -> None:
    source = "{% set c = messages[0].content %}{{ raise_exception('no') if c != 'yes' }}<{{ c }}>"
    rendered = ChatTemplate(source).render_with_spans([{"role": "user", "content": "yes"}])
    assert rendered.text == "<yes>"
    assert check(rendered) == {}


def test_a_conversation_that_can_be_rendered_only_once_has_no_spans() -> None:
    messages = [{"role": "user", "content": "x"}]
    rest = "y" * (3 << 20)  # with the markers the request would hold this twice
    rendered = ChatTemplate("{{ messages[0].content }}{{ rest | length }}").render_with_spans(
        messages, rest=rest
    )
    assert rendered.text == f"x{3 << 20}"
    assert check(rendered) == {}


def test_contents_that_look_like_markers() -> None:
    contents = ["\U000f0000", "\u2003\u2002\U000f0001\u2002\u2003", "", " \n", "{{ x }}"]
    messages = [{"role": "user", "content": content} for content in contents]
    found = check(ChatTemplate(TEMPLATES["chatml"]).render_with_spans(messages))
    assert found == {0: [contents[0]], 1: [contents[1]], 4: [contents[4]]}


def test_parts_of_a_content() -> None:
    content = [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]
    found = check(
        ChatTemplate(TEMPLATES["gemma 3"]).render_with_spans([{"role": "user", "content": content}])
    )
    assert found == {0: ["one", "two"]}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(" \nab<|>", max_size=8), min_size=1, max_size=5))
def test_any_contents(contents: list[str]) -> None:
    roles = itertools.cycle(["user", "assistant"])
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    for name, trims in (("chatml", False), ("gemma 3", True)):
        rendered = ChatTemplate(TEMPLATES[name], variables=SPECIAL).render_with_spans(messages)
        shown = {index: content.strip() if trims else content for index, content in enumerate(contents)}
        expected = {index: [content] for index, content in shown.items() if contents[index].strip()}
        assert check(rendered) == expected
