"""Chat templates: the text of transformers, character by character; errors in the template's own words."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from boli.errors import PromptError, TemplateError
from boli.text import ChatTemplate, load_tokenizer
from boli.text.template import MAX_MESSAGES, MAX_TEMPLATE_CHARACTERS, MAX_TOOLS
from text.templates import CONVERSATIONS, TEMPLATES, TOOLS
from text.vocabularies import Metadata, byte_level_metadata

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": "x"}]


def expected(source: str, messages: list[dict[str, Any]], **arguments: Any) -> str | None:
    """What transformers renders, or None where it refuses."""
    import jinja2
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Backend(models.BPE()), **SPECIAL)
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **arguments)
    except (jinja2.TemplateError, TypeError, AttributeError):
        return None
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_text_equals_transformers(template: str, conversation: str) -> None:
    ours = ChatTemplate(TEMPLATES[template], variables=SPECIAL)
    messages = CONVERSATIONS[conversation]
    for arguments in ({}, {"tools": TOOLS}, {"enable_thinking": False, "date_string": "1 Jan"}):
        for prompt in (True, False):
            text = expected(ours.source, messages, add_generation_prompt=prompt, **arguments)
            if text is None:
                with pytest.raises(TemplateError):
                    ours.render(messages, add_generation_prompt=prompt, **arguments)
            else:
                assert ours.render(messages, add_generation_prompt=prompt, **arguments) == text


def test_the_comparison_compares_something() -> None:
    refused = [
        (template, conversation)
        for template in TEMPLATES
        for conversation in CONVERSATIONS
        if expected(TEMPLATES[template], CONVERSATIONS[conversation]) is None
    ]
    assert 0 < len(refused) < len(TEMPLATES) * len(CONVERSATIONS) / 3


def test_messages_are_not_changed() -> None:
    messages: list[dict[str, object]] = [
        {"role": "assistant", "content": None, "reasoning": "hm"},
        {"role": "user", "content": "x"},
    ]
    before = [dict(message) for message in messages]
    template = ChatTemplate("{{ messages | tojson }}")
    assert template.render(messages) == (
        '[{"thinking": "hm", "role": "assistant", "reasoning": "hm", "reasoning_content": "hm"}, '
        '{"role": "user", "content": "x"}]'
    )
    assert messages == before


def test_surrogates_in_messages_come_back() -> None:
    # They are refused when encoded; a template has no reason to fail.
    assert (
        ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": "\ud800"}]) == "\ud800"
    )


def test_variables_win_over_special_tokens() -> None:
    template = ChatTemplate("{{ bos_token }}{{ eos_token }}", variables=SPECIAL)
    assert template.render(USER, bos_token="<B>") == "<B></s>"


def test_the_real_template_keeps_its_own_beginning() -> None:
    metadata = byte_level_metadata(add_bos_token=True)
    metadata["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0].content }}"
    tokenizer = load_tokenizer(Metadata(metadata))
    text = tokenizer.require_chat_template().render(USER)
    assert text == "<|im_start|>x"
    assert not tokenizer.doubled_bos(tokenizer.encode_chat(text))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('Only user and assistant!') }}", "Only user and assistant!"),
        ("{% for m in messages %}", "line 1"),
        ("{{ messages[0].a.b }}", "has no attribute 'a'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'x' + 1 }}", "TypeError"),
        ("{{ messages | no_such_filter }}", "no_such_filter"),
        ("{% include 'secret' %}", "no loader"),
        ("{% extends messages %}", "no loader"),
    ],
)
def test_errors_say_what_the_template_says(source: str, words: str) -> None:
    with pytest.raises(TemplateError) as error:
        ChatTemplate(source).render(USER)
    assert words in error.value.cause


def test_what_a_template_says_cannot_steer_the_terminal() -> None:
    with pytest.raises(TemplateError) as error:
        ChatTemplate("{{ raise_exception('a\\x1b[2J\\r\\nb' * 10000) }}").render(USER)
    assert error.value.cause.isprintable()
    assert len(error.value.cause) < 1000


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"content": "x"}],
        [{"role": 5, "content": "x"}],
        ["text"],
        [{"role": "user"}] * (MAX_MESSAGES + 1),
    ],
)
def test_messages_that_are_none(messages: Any) -> None:
    with pytest.raises(PromptError):
        ChatTemplate("x").render(messages)


def test_tools_that_are_none() -> None:
    with pytest.raises(PromptError, match="tool 0"):
        ChatTemplate("x").render(USER, tools=["weather"])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="tools"):
        ChatTemplate("x").render(USER, tools=[{}] * (MAX_TOOLS + 1))


def test_only_plain_data_goes_in() -> None:
    with pytest.raises(TemplateError, match="plain data"):
        ChatTemplate("x").render([{"role": "user", "content": object()}])
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TemplateError, match="plain data"):
        ChatTemplate("x").render(USER, deep=deep)


def test_sizes_are_limited() -> None:
    with pytest.raises(TemplateError, match="characters"):
        ChatTemplate("x" * (MAX_TEMPLATE_CHARACTERS + 1)).render(USER)
    with pytest.raises(TemplateError, match="too large"):
        ChatTemplate("x").render([{"role": "user", "content": "x" * (5 << 20)}])
    with pytest.raises(TemplateError, match="writes too much"):
        ChatTemplate("{% for i in range(3) %}{{ messages[0].content }}{% endfor %}").render(
            [{"role": "user", "content": "x" * (3 << 20)}]
        )


def test_long_conversations_fit() -> None:
    messages = [
        {"role": "user" if n % 2 == 0 else "assistant", "content": "中文 🧿 " * 40} for n in range(2000)
    ]
    source = TEMPLATES["chatml"]
    assert ChatTemplate(source).render(messages) == expected(source, messages, add_generation_prompt=True)
