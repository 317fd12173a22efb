"""Tools in a conversation: what the model is told, what it may write, and how its calls are read.

With tools every answer is held to a grammar: text is free, but what begins as a call is one, of a function
that was given, with arguments that are a JSON object. Arguments follow the function's schema wherever that
can be followed; `strict` makes it a promise, and a schema that cannot be followed an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from boli.engine.constraint import Constraint
from boli.engine.grammar import Grammars, json_rule
from boli.errors import GrammarError, TemplateError
from boli.server.errors import ApiError, invalid
from boli.server.formats import ANY_OBJECT, Form, blaming
from boli.server.tools_wire import Chosen, Tool
from boli.text.tools import (
    Call,
    CallStart,
    Event,
    Text,
    ToolFormat,
    ToolReader,
    calls_grammar,
    format_of,
)
from boli.text.tools.formats import OPENING

if TYPE_CHECKING:
    from boli.server.chat_wire import ChatRequest, Message
    from boli.text import Tokenizer


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a tool call: the first one names it, the others carry pieces of its arguments.

    Attributes:
        index: Which call of the message.
        arguments: A piece of the JSON text.
        id: In the first part.
        name: In the first part.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """How tools are put to the model in one conversation.

    Attributes:
        messages: As the chat template takes them.
        described: The tools that the template writes into the prompt; None for none.
        variables: Further names for the template.
        constraint: What the answer must be; None for anything.
        make_reader: Gives each answer a reader of its calls; None where there are none.
    """

    messages: list[dict[str, Any]]
    described: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    constraint: Constraint | None = None
    make_reader: Callable[[], Reader] | None = None


class Reader:
    """Finds tool calls in the text of one answer, piece by piece.

    Args:
        reader: Of the model's format.
    """

    def __init__(self, reader: ToolReader) -> None:
        self._reader = reader

    def feed(self, text: str) -> tuple[str, tuple[CallDelta, ...]]:
        """The text that belongs to no call, and what is new of calls."""
        return _told(self._reader.feed(text))

    def finish(self) -> tuple[str, tuple[CallDelta, ...]]:
        """What was held back in case more came."""
        return _told(self._reader.finish())


def _told(events: Sequence[Event]) -> tuple[str, tuple[CallDelta, ...]]:
    text = ""
    calls: dict[int, CallDelta] = {}  # one for each call: clients join by index, not within a chunk
    for event in events:
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, CallStart):
            calls[event.index] = CallDelta(event.index, "", event.id, event.name)
        else:
            known = calls.get(event.index, CallDelta(event.index))
            calls[event.index] = replace(known, arguments=known.arguments + event.text)
    return text, tuple(calls.values())


def use_tools(request: ChatRequest, form: Form | None, tokenizer: Tokenizer, grammars: Grammars) -> ToolUse:
    """What a request's tools, its choice and the calls of earlier turns mean for this model.

    May take a while: call it in a thread.

    Args:
        request: What was asked.
        form: What an answer without calls must be.
        tokenizer: Of the model.
        grammars: Of the model.

    Raises:
        ApiError: 400: the model's template cannot express it (with the reason), the fields contradict each
            other, or a schema cannot be followed.
    """
    tools, choice = request.tools or [], request.tool_choice
    messages = _messages(request.messages, tokenizer)
    if not tools:
        if isinstance(choice, Chosen) or choice == "required":
            raise invalid("'tool_choice' asks for a call, and there are no tools", param="tool_choice")
        return ToolUse(messages=messages)
    _check_names(tools, choice)
    if choice == "none":  # so the model is not told of them either
        return ToolUse(messages=messages)
    if form is not None and form.schema is None:
        raise invalid("beside tools the form of an answer can only be JSON", param=form.field)
    shape = _shape(tokenizer, "tools")
    required = choice == "required" or isinstance(choice, Chosen)
    if shape.tagged and not required:
        _check_tag(tokenizer)
    if form is not None and not shape.tagged and not required:
        raise invalid("this model's calls are JSON themselves: ask for a form or for tools", param=form.field)
    wanted = [
        (index, tool)
        for index, tool in enumerate(tools)
        if not isinstance(choice, Chosen) or tool.function.name == choice.function.name
    ]
    constraint = _constraint(
        shape,
        wanted,
        form,
        grammars,
        required=required,
        parallel=request.parallel_tool_calls is not False and not isinstance(choice, Chosen),
    )
    names = [tool.function.name for _, tool in wanted]
    described = [tool.described() for tool in tools]
    return ToolUse(
        messages=messages,
        described=described,
        variables={} if shape.variable == "tools" else {shape.variable: described},
        constraint=constraint,
        make_reader=lambda: Reader(ToolReader(shape, names)),
    )


def _shape(tokenizer: Tokenizer, field: str) -> ToolFormat:
    try:
        return format_of(tokenizer.require_chat_template())
    except TemplateError as error:
        message = f"{error.message}: {error.cause}; {error.remedy}"
        raise invalid(message, param=field, code="tools_not_supported") from error


def _check_names(tools: Sequence[Tool], choice: object) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name, field = tool.function.name, f"tools[{index}].function"
        if name in names:
            raise invalid(f"there are two functions {name!r}", param=f"{field}.name")
        names.add(name)
        kind = tool.parameters.get("type", "object")
        if kind != "object":
            raise invalid(f"{field}.parameters: arguments are an object", param=f"{field}.parameters")
    if isinstance(choice, Chosen) and choice.function.name not in names:
        raise invalid(f"there is no function {choice.function.name!r}", param="tool_choice.function.name")


def _check_tag(tokenizer: Tokenizer) -> None:
    """Refuses a vocabulary in which the tag is a control token, which no text shows and no grammar writes."""
    ids = tokenizer.encode(OPENING, add_special_tokens=False)
    if any(tokenizer.is_special(token) for token in ids):
        raise invalid(
            f"this model marks calls with the control token {OPENING}, which is no text: "
            "use tool_choice 'required', or name a function",
            param="tool_choice",
            code="tools_not_supported",
        )


def _constraint(
    shape: ToolFormat,
    wanted: Sequence[tuple[int, Tool]],
    form: Form | None,
    grammars: Grammars,
    *,
    required: bool,
    parallel: bool,
) -> Constraint:
    def compiled(schemas: Sequence[dict[str, Any]]) -> Constraint:
        calls = [
            Call(tool.function.name, json_rule(schema))
            for (_, tool), schema in zip(wanted, schemas, strict=True)
        ]
        return grammars.lark(calls_grammar(shape, calls, required=required, parallel=parallel, text=text))

    text = None
    if form is not None and form.schema is not None:
        form.constraint(grammars)  # so that an error names the form
        text = json_rule(form.schema)

    schemas = [{**tool.parameters, "type": "object"} for _, tool in wanted]
    try:
        return compiled(schemas)
    except GrammarError:
        for place, (index, tool) in enumerate(wanted):
            try:
                with blaming(f"tools[{index}].function.parameters"):
                    grammars.json_schema(schemas[place])
            except ApiError:
                if tool.function.strict:
                    raise
                schemas[place] = ANY_OBJECT
        with blaming("tools"):
            return compiled(schemas)


def _messages(messages: Sequence[Message], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """A conversation as the chat template takes it, its calls and results in the template's form."""
    plain = [message.plain() for message in messages]
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return plain
    first = next(i for i, message in enumerate(messages) if message.tool_calls or message.role == "tool")
    shape = _shape(tokenizer, f"messages[{first}]")
    names: dict[str, str] = {}
    for index, (message, written) in enumerate(zip(messages, plain, strict=True)):
        calls = [
            (call.id, call.function.name, _arguments(call.function.arguments, index, number))
            for number, call in enumerate(message.tool_calls or ())
        ]
        names |= {identifier: name for identifier, name, _ in calls if identifier is not None}
        if calls and shape.calls_in_content:
            text = shape.written([(name, arguments) for _, name, arguments in calls])
            written["content"] = "\n".join(part for part in (written["content"], text) if part)
        elif calls:
            written["tool_calls"] = [
                {
                    "id": identifier,
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": json.dumps(arguments) if shape.arguments_as_text else arguments,
                    },
                }
                for identifier, name, arguments in calls
            ]
        if message.role == "tool":
            _check_result(message, index, shape, names)
            written.setdefault("name", names.get(message.tool_call_id or ""))
    return plain


def _check_result(message: Message, index: int, shape: ToolFormat, names: dict[str, str]) -> None:
    if not shape.results:
        raise invalid(
            "the model's chat template has no place for results of tools",
            param=f"messages[{index}].role",
            code="tools_not_supported",
        )
    if message.tool_call_id is not None and message.tool_call_id not in names:
        raise invalid(
            f"no earlier message calls a tool under the id {message.tool_call_id!r}",
            param=f"messages[{index}].tool_call_id",
        )


def _arguments(text: str, message: int, call: int) -> dict[str, Any]:
    field = f"messages[{message}].tool_calls[{call}].function.arguments"
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise invalid(f"{field} is not JSON: {error}", param=field) from None
    if not isinstance(value, dict):
        raise invalid(f"{field} must be a JSON object", param=field)
    return value
