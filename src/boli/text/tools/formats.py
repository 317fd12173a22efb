"""What a chat template can say about tools, found out by asking it.

Templates are programs, and to search their source for words is to guess. So a template is rendered with a
made-up tool, a made-up call and its made-up result: what it writes shows whether it has a place for them, and
how a call looks. Three forms are known:

    hermes   <tool_call>, a new line, {"name": …, "arguments": …}, a new line, </tool_call>   Qwen, Hermes
    smollm   <tool_call>[{"name": …, "arguments": …}, …]</tool_call>                          SmolLM 2
    llama3   {"name": …, "parameters": …}                                                     Llama 3

Some templates (SmolLM 3) tell the model of the first form and have no place for calls of earlier turns; those
are then written into the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from boli.errors import TemplateError
from boli.text.template import ChatTemplate

OPENING = "<tool_call>"
CLOSING = "</tool_call>"
_NAMES = ("boli_probe_one", "boli_probe_two")
_VARIABLES = ("tools", "xml_tools")  # the second is SmolLM 3's
_ARGUMENTS = {"probe_key": "probe_value"}
_TOLD = re.compile(OPENING + r'\s*(\[)?\s*\{"name": [^{}]{1,80}"arguments": ')
_RESULT = "boli probe result"
_USER = {"role": "user", "content": "hello"}
_ANSWER = {"role": "tool", "content": _RESULT, "name": _NAMES[0], "tool_call_id": f"call_{_NAMES[0]}"}


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes tool calls.

    Attributes:
        name: `hermes`, `smollm` or `llama3`.
        arguments_key: What the arguments are called beside `name`.
        tagged: Calls stand between `<tool_call>` and `</tool_call>`, with text around them; otherwise a call
            is the whole answer.
        listed: The tags hold a list of calls.
        parallel: A message may hold several calls.
        results: Messages of the role `tool` are written.
        arguments_as_text: The template wants arguments as JSON text, not as an object.
        calls_in_content: The template has no place for calls: they must be part of the content.
        variable: What the template calls the list of tools.
    """

    name: str
    arguments_key: str
    tagged: bool
    listed: bool
    parallel: bool
    results: bool
    arguments_as_text: bool
    calls_in_content: bool
    variable: str = "tools"

    @property
    def opening(self) -> str:
        """What stands before the first call."""
        if not self.tagged:
            return ""
        return OPENING + ("[" if self.listed else "\n")

    @property
    def closing(self) -> str:
        """What stands behind the last call."""
        if not self.tagged:
            return ""
        return ("]" if self.listed else "\n") + CLOSING

    def written(self, calls: Sequence[tuple[str, object]]) -> str:
        """Calls, each a name and its arguments, as the model would write them."""
        texts = [
            json.dumps({"name": name, self.arguments_key: arguments}, ensure_ascii=False)
            for name, arguments in calls
        ]
        if self.listed:
            return self.opening + ", ".join(texts) + self.closing
        return "\n".join(self.opening + text + self.closing for text in texts)


@lru_cache(maxsize=8)
def format_of(template: ChatTemplate) -> ToolFormat:
    """How a template writes tool calls.

    Raises:
        TemplateError: It cannot express tools, or not in a form that is known; says which.
    """
    for variable in _VARIABLES:
        probe = _Probe(template, variable)
        if _NAMES[0] in probe.described:
            break
    else:
        raise _cannot("it does not tell the model about them")
    for as_text in (False, True):
        text = probe.written([_calling(_NAMES[:1], as_text)])
        found = None if text is None else _find_call(text, probe.header())
        if found is not None:
            break
    else:
        return _told_of(probe)
    name, arguments_key = found
    several = probe.written([_calling(_NAMES, as_text)])
    answered = probe.written([_calling(_NAMES[:1], as_text), _ANSWER])
    return ToolFormat(
        name=name,
        arguments_key=arguments_key,
        tagged=name != "llama3",
        listed=name == "smollm",
        parallel=several is not None and all(each in several for each in _NAMES),
        results=answered is not None and _RESULT in answered,
        arguments_as_text=as_text,
        calls_in_content=False,
        variable=variable,
    )


def _told_of(probe: _Probe) -> ToolFormat:
    """The form that a template tells the model of, where it does not write it itself."""
    told = _TOLD.search(probe.described)
    written = probe.written([_calling(_NAMES[:1], False)])
    if told is None or (written is not None and _NAMES[0] in written):
        raise _cannot("it does not write calls, or in a form that boli does not know")
    listed = told[1] is not None
    shape = ToolFormat(
        name="smollm" if listed else "hermes",
        arguments_key="arguments",
        tagged=True,
        listed=listed,
        parallel=True,
        results=False,
        arguments_as_text=False,
        calls_in_content=True,
        variable=probe.variable,
    )
    content = shape.written([(_NAMES[0], _ARGUMENTS)])
    answered = probe.written([{"role": "assistant", "content": content}, _ANSWER])
    results = answered is not None and content in answered and _RESULT in answered
    return replace(shape, results=results)


def _cannot(why: str) -> TemplateError:
    return TemplateError(
        "the model's chat template cannot express tools",
        cause=why,
        remedy="use a model that was trained to call tools, such as Qwen 2.5, Hermes 3 or Llama 3.2, "
        "or turn tools off in the client",
    )


class _Probe:
    """Renders a template with a tool.

    Args:
        template: The template.
        variable: What it calls the list of tools.

    Attributes:
        variable: The same.
        described: What it writes before an answer: the tool, if it has a place for it, and a question.
    """

    def __init__(self, template: ChatTemplate, variable: str) -> None:
        self.variable = variable
        self.described = ""
        self._template = template
        self.described = self.written([]) or ""

    def written(self, messages: Sequence[Mapping[str, object]]) -> str | None:
        """What it writes for messages behind the question; None if it refuses."""
        text = self._rendered(messages)
        if text is None:
            return None
        return text[len(commonprefix((text, self.described))) :]  # noqa: RUF071 (these are no paths)

    def header(self) -> str:
        """What stands before an answer."""
        return (self._rendered([], header=True) or "").removeprefix(self.described)

    def _rendered(self, messages: Sequence[Mapping[str, object]], *, header: bool = False) -> str | None:
        tools = [_tool(_NAMES[0])]
        further: dict[str, Any] = {} if self.variable == "tools" else {self.variable: tools}
        try:
            return self._template.render(
                [_USER, *messages], tools=tools, add_generation_prompt=header, **further
            )
        except TemplateError:
            return None


def _tool(name: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": "string", "description": "a probe"} for key in _ARGUMENTS},
        "required": list(_ARGUMENTS),
    }
    function = {"name": name, "description": "a probe", "parameters": parameters}
    return {"type": "function", "function": function}


def _calling(names: Sequence[str], as_text: bool) -> dict[str, Any]:
    arguments = json.dumps(_ARGUMENTS) if as_text else _ARGUMENTS
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for name in names
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _find_call(text: str, header: str) -> tuple[str, str] | None:
    """The form of the call in what a template wrote, and what it calls the arguments.

    Args:
        text: The assistant's message, as the template wrote it.
        header: What stands before an answer.
    """
    start = text.rfind("{", 0, max(text.find(_NAMES[0]), 0))
    if start < 0:
        return None
    try:
        call, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    keys = [key for key in ("arguments", "parameters") if call.get(key) == _ARGUMENTS]
    if call.get("name") != _NAMES[0] or len(keys) != 1 or len(call) != 2:
        return None
    before, after = text[:start].rstrip(), text[end:].lstrip()
    if before.endswith(OPENING) and after.startswith(CLOSING):
        return "hermes", keys[0]
    if before.endswith(f"{OPENING}[") and after.startswith(f"]{CLOSING}"):
        return "smollm", keys[0]
    return ("llama3", keys[0]) if before == header.strip() else None
