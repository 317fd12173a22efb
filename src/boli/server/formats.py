"""What form an answer must have: `response_format`, and the fields that vLLM's clients send.

{"response_format": {"type": "json_schema", "json_schema": {"name": …, "schema": …}}}    OpenAI
{"response_format": {"type": "json_object"}}                                             OpenAI
{"structured_outputs": {"json" | "regex" | "choice" | "grammar": …}}                     vLLM
{"guided_json" | "guided_regex" | "guided_choice" | "guided_grammar": …}                 vLLM, older
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from boli.engine.constraint import Constraint
from boli.engine.grammar import Grammars
from boli.errors import GrammarError
from boli.server.errors import as_api_error, invalid
from boli.server.wire import Wire

MAX_ALTERNATIVES = 1000
Schema = dict[str, Any]
Form = tuple[str, Callable[[Grammars], Constraint]]  # the field that asks for it, and how it is made
Alternatives = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_ALTERNATIVES)
]


class SchemaFormat(Wire):
    """A JSON schema with a name."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Wire):
    """The form of an answer. A `schema` beside `json_object` is what some other servers take."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None


class StructuredOutputs(Wire):
    """The form of an answer, as vLLM's clients ask for it; one of these."""

    json_: Annotated[Schema | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Alternatives | None = None
    grammar: str | None = None


class FormatFields(Wire):
    """The fields that say what form an answer must have; one of them."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: Alternatives | None = None
    guided_grammar: str | None = None


def constraint_for(request: FormatFields, grammars: Grammars) -> Constraint | None:
    """What the answer must be; None for anything. May take a while: call it in a thread.

    Raises:
        ApiError: 400: two forms at once, or a schema, expression or grammar that cannot be followed.
    """
    forms = [*_of_response_format(request.response_format), *_of_vllm(request)]
    if not forms:
        return None
    if len(forms) > 1:
        names = " and ".join(f"'{field}'" for field, _ in forms)
        raise invalid(f"an answer has one form: {names} ask for several", param=forms[1][0])
    field, make = forms[0]
    with blaming(field):
        return make(grammars)


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """Says of a grammar that cannot be used which field it came from."""
    try:
        yield
    except GrammarError as error:
        told = as_api_error(error)
        told.message, told.param = f"{field}: {told.message}", field
        raise told from error


def _of_response_format(asked: ResponseFormat | None) -> Iterator[Form]:
    if asked is None or asked.type == "text":
        return
    if asked.type == "json_schema":
        field = "response_format.json_schema"
        if asked.json_schema is None:
            raise invalid(f"{field} is missing", param=field)
        schema = asked.json_schema.schema_
        if schema is None:
            raise invalid(f"{field}.schema is missing", param=f"{field}.schema")
        yield f"{field}.schema", lambda grammars: grammars.json_schema(schema)
        return
    if asked.json_schema is not None:
        field = "response_format.json_schema"
        raise invalid(f"{field} is for the type json_schema", param=field)
    given = asked.schema_
    if given is None:
        yield "response_format", lambda grammars: grammars.json_object()
    else:
        yield "response_format.schema", lambda grammars: grammars.json_schema(given)


def _of_vllm(request: FormatFields) -> Iterator[Form]:
    outputs = request.structured_outputs or StructuredOutputs()
    schemas = {"structured_outputs.json": outputs.json_, "guided_json": request.guided_json}
    regexes = {"structured_outputs.regex": outputs.regex, "guided_regex": request.guided_regex}
    choices = {"structured_outputs.choice": outputs.choice, "guided_choice": request.guided_choice}
    sources = {"structured_outputs.grammar": outputs.grammar, "guided_grammar": request.guided_grammar}
    if outputs.json_object:
        yield "structured_outputs.json_object", lambda grammars: grammars.json_object()
    for field, schema in schemas.items():
        if schema is not None:
            parsed = _parsed(schema, field)
            yield field, partial(Grammars.json_schema, schema=parsed)
    for field, regex in regexes.items():
        if regex is not None:
            yield field, partial(Grammars.regex, pattern=regex)
    for field, choice in choices.items():
        if choice is not None:
            yield field, partial(Grammars.lark, source=_one_of(choice))
    for field, source in sources.items():
        if source is not None:
            yield field, partial(Grammars.lark, source=source)


def _parsed(schema: Schema | str, field: str) -> Mapping[str, object]:
    if not isinstance(schema, str):
        return schema
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{field} is not JSON: {error}", param=field) from None
    if not isinstance(value, dict):
        raise invalid(f"{field} must be an object", param=field)
    return value


def _one_of(choice: Sequence[str]) -> str:
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice) + "\n"
