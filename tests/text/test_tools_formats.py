"""What chat templates say about tools: found out by asking them."""

from __future__ import annotations

import json

import pytest

from boli.errors import TemplateError
from boli.text.template import ChatTemplate
from boli.text.tools import ToolFormat, format_of
from text import tool_templates as made

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def shape(source: str, tool_source: str | None = None) -> ToolFormat:
    return format_of(ChatTemplate(source, variables=TOKENS, tool_source=tool_source))


@pytest.mark.parametrize(
    "source",
    [made.HERMES, made.HERMES_TEXT, made.SMOLLM_3, made.SMOLLM_3_XML],
    ids=["json", "text", "told", "xml_tools"],
)
def test_hermes(source: str) -> None:
    found = shape(source)
    assert (found.name, found.arguments_key) == ("hermes", "arguments")
    assert (found.tagged, found.listed, found.parallel, found.results) == (True, False, True, True)
    assert found.arguments_as_text == (source == made.HERMES_TEXT)
    assert found.calls_in_content == (source in (made.SMOLLM_3, made.SMOLLM_3_XML))
    assert found.variable == ("xml_tools" if source == made.SMOLLM_3_XML else "tools")


def test_smollm() -> None:
    found = shape(made.SMOLLM_2)
    assert (found.name, found.arguments_key) == ("smollm", "arguments")
    assert (found.tagged, found.listed, found.parallel, found.results) == (True, True, True, True)
    assert not found.calls_in_content


def test_llama3() -> None:
    found = shape(made.LLAMA_3)
    assert (found.name, found.arguments_key) == ("llama3", "parameters")
    assert (found.tagged, found.listed, found.results) == (False, False, True)
    assert not found.parallel, "the template raises an exception where there are two"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (made.NONE, "does not tell the model about them"),
        (made.MISTRAL_TOOLS, "a form that boli does not know"),
        (made.XML_CALLS, "a form that boli does not know"),
        (made.FUNCTION_WORD, "a form that boli does not know"),
        ("{{ raise_exception('no tools here') }}", "does not tell the model about them"),
        ("{% for x in range(10**9) %}{% endfor %}", "does not tell the model about them"),
    ],
    ids=["none", "list behind a word", "xml", "word", "refuses", "never ends"],
)
def test_others_are_refused_with_the_reason(source: str, why: str) -> None:
    with pytest.raises(TemplateError) as caught:
        shape(source)
    assert caught.value.message == "the model's chat template cannot express tools"
    assert why in caught.value.cause
    assert caught.value.remedy


def test_results_may_have_no_place() -> None:
    assert shape(made.HERMES).results
    assert not shape(made.NO_RESULTS).results


def test_the_template_for_tools_counts_where_there_is_one() -> None:
    assert shape(made.NONE, tool_source=made.HERMES).name == "hermes"


@pytest.mark.parametrize(
    "source", [made.HERMES, made.SMOLLM_2, made.SMOLLM_3], ids=["hermes", "list", "told"]
)
def test_calls_are_written_as_the_template_writes_them(source: str) -> None:
    found = shape(source)
    calls: list[tuple[str, object]] = [("weather", {"city": "上海"}), ("time", {})]
    written = found.written(calls)
    if not found.calls_in_content:
        message = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": name, "arguments": given}} for name, given in calls],
        }
        user = {"role": "user", "content": "?"}
        assert written in ChatTemplate(source).render([user, message], tools=[{"type": "function"}])
    assert json.dumps(calls[0][1], ensure_ascii=False) in written
