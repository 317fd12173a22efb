"""What a client sends about tools."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from boli.server.wire import Wire

MAX_DESCRIPTION_CHARACTERS = 1 << 16
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class Function(Wire):
    """A function that the model may call."""

    name: FunctionName
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARACTERS)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    """A tool; the only kind is a function of the client's."""

    tolerated: ClassVar[frozenset[str]] = frozenset({"cache_control"})

    type: Literal["function"]
    function: Function

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema of its arguments."""
        return self.function.parameters or {"type": "object", "properties": {}}

    def described(self) -> dict[str, Any]:
        """The tool as chat templates write it."""
        function = self.function.model_dump(include={"name", "description"}, exclude_none=True)
        function["parameters"] = self.parameters
        return {"type": "function", "function": function}


class ChosenFunction(Wire):
    """The name of a function."""

    name: FunctionName


class Chosen(Wire):
    """The one function that must be called."""

    type: Literal["function"]
    function: ChosenFunction


def _choice_kind(value: Any) -> str:
    return "(chosen)" if isinstance(value, (dict, Chosen)) else "(mode)"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(mode)")] | Annotated[Chosen, Tag("(chosen)")],
    Discriminator(_choice_kind),
]
