"""What form an answer must have: `response_format`, and the fields that vLLM's clients send.

{"response_format": {"type": "json_schema", "json_schema": {"name": …, "schema": …}}}    OpenAI
{"response_format": {"type": "json_object"}}                                             OpenAI
{"structured_outputs": {"json" | "regex" | "choice" | "grammar": …}}                     vLLM
{"guided_json" | "guided_regex" | "guided_choice" | "guided_grammar": …}                 vLLM, older
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from boli.engine.constraint import Constraint
from boli.engine.grammar import Grammars
from boli.errors import GrammarError
from boli.server.errors import as_api_error, invalid
from boli.server.wire import Wire

MAX_ALTERNATIVES = 1000
ANY_OBJECT: dict[str, Any] = {"type": "object"}
Schema = dict[str, Any]
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


@dataclass(frozen=True, slots=True)
class Form:
    """The form that an answer must have.

    Attributes:
        field: Which field of the request asks for it.
        schema: JSON that this schema accepts.
        regex: Or text that this expression matches.
        grammar: Or text of this grammar.
    """

    field: str
    schema: Mapping[str, object] | None = None
    regex: str | None = None
    grammar: str = ""

    def constraint(self, grammars: Grammars) -> Constraint:
        """The form, compiled. May take a while: call it in a thread.

        Raises:
            ApiError: 400: it cannot be followed.
        """
        with blaming(self.field):
            if self.schema is not None:
                return grammars.json_schema(self.schema)
            if self.regex is not None:
                return grammars.regex(self.regex)
            return grammars.lark(self.grammar)


def form_of(request: FormatFields) -> Form | None:
    """The form that a request asks for; None for free text.

    Raises:
        ApiError: 400: there are two, or one is not complete.
    """
    forms = [*_of_response_format(request.response_format), *_of_vllm(request)]
    if len(forms) > 1:
        names = " and ".join(f"'{form.field}'" for form in forms)
        raise invalid(f"an answer has one form: {names} ask for several", param=forms[1].field)
    return forms[0] if forms else None


def constraint_for(request: FormatFields, grammars: Grammars) -> Constraint | None:
    """What the answer must be; None for anything. May take a while: call it in a thread.

    Raises:
        ApiError: 400: two forms at once, or a schema, expression or grammar that cannot be followed.
    """
    form = form_of(request)
    return None if form is None else form.constraint(grammars)


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
        yield Form(f"{field}.schema", schema=schema)
        return
    if asked.json_schema is not None:
        field = "response_format.json_schema"
        raise invalid(f"{field} is for the type json_schema", param=field)
    if asked.schema_ is None:
        yield Form("response_format", schema=ANY_OBJECT)
    else:
        yield Form("response_format.schema", schema=asked.schema_)


def _of_vllm(request: FormatFields) -> Iterator[Form]:
    outputs = request.structured_outputs or StructuredOutputs()
    if outputs.json_object:
        yield Form("structured_outputs.json_object", schema=ANY_OBJECT)
    for prefix, schema, regex, choice, grammar in (
        ("structured_outputs.", outputs.json_, outputs.regex, outputs.choice, outputs.grammar),
        (
            "guided_",
            request.guided_json,
            request.guided_regex,
            request.guided_choice,
            request.guided_grammar,
        ),
    ):
        if schema is not None:
            yield Form(f"{prefix}json", schema=_parsed(schema, f"{prefix}json"))
        if regex is not None:
            yield Form(f"{prefix}regex", regex=regex)
        if choice is not None:
            yield Form(f"{prefix}choice", grammar=_one_of(choice))
        if grammar is not None:
            yield Form(f"{prefix}grammar", grammar=grammar)


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
