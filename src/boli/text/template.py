"""Chat templates: from messages to the text that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boli.errors import PromptError, TemplateError

MAX_TEMPLATE_CHARACTERS = 1 << 20
MAX_MESSAGES = 4096
MAX_TOOLS = 1024
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a part of a rendered text comes from.

    Attributes:
        start: First character.
        end: The character after the last.
        message_index: The message whose content it is; None for what the template wrote, and where it cannot
            be told.
    """

    start: int
    end: int
    message_index: int | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: What the template wrote.
        spans: They cover the text from end to end, in order.
    """

    text: str
    spans: list[Span]

    def message_of(self, start: int, end: int) -> int | None:
        """The message that all of a part of the text comes from; None if there is no such."""
        owners = {
            span.message_index for span in self.spans if span.start < max(end, start + 1) and span.end > start
        }
        return owners.pop() if len(owners) == 1 else None


class ChatTemplate:
    """A model's chat template, in Jinja.

    Rendering gives what `transformers` gives for the same template, messages and variables. It happens in a
    process of its own with limits on time, memory and output: see `sandbox.py`.

    Args:
        source: The template.
        variables: Texts of the special tokens (`bos_token`, `eos_token`, …).
        tool_source: The template to take instead where there are tools.

    Attributes:
        source: The template.
    """

    def __init__(
        self, source: str, *, variables: Mapping[str, str] | None = None, tool_source: str | None = None
    ) -> None:
        self.source = source
        self._variables = dict(variables or {})
        self._tool_source = tool_source

    def warm_up(self) -> None:
        """Start the process that renders, which takes a tenth of a second, without waiting for it."""
        from boli.text.sandbox import shared_sandbox  # noqa: PLC0415

        shared_sandbox().start()

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        **variables: object,
    ) -> str:
        """Write a conversation as the model reads it.

        Args:
            messages: Each a mapping with a `role` and usually a `content`. Entries that are None are left
                out.
            add_generation_prompt: End with the header of the assistant's turn.
            tools: JSON schemas of functions.
            variables: Further names for the template, such as `enable_thinking`; they win over special
                tokens.

        Raises:
            PromptError: No messages, too many, or messages without a role.
            TemplateError: The template fails, refuses the messages (with its own words), or takes too much
                time or memory.
        """
        values = self._values(messages, add_generation_prompt, tools, variables)
        return self._render([values], tools)[0] or ""

    def render_with_spans(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        **variables: object,
    ) -> Rendered:
        """Render, and say which message each character comes from.

        The arguments and errors are those of `render`; the method is told in `template_spans.py`.
        """
        from boli.text.template_spans import trace  # noqa: PLC0415

        values = self._values(messages, add_generation_prompt, tools, variables)
        return trace(values, lambda renders: self._render(renders, tools))

    def _render(self, renders: Sequence[Mapping[str, object]], tools: object) -> list[str | None]:
        from boli.text.sandbox import shared_sandbox  # noqa: PLC0415 (starts no process)

        source = self._tool_source if tools is not None and self._tool_source is not None else self.source
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TemplateError(
                f"the chat template has {len(source):,} characters",
                cause=f"at most {MAX_TEMPLATE_CHARACTERS:,} are rendered",
                remedy="use another model file",
            )
        return shared_sandbox().render(source, renders)

    def _values(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, object]] | None,
        variables: Mapping[str, object],
    ) -> dict[str, object]:
        _check(messages, tools)
        return {
            "documents": None,
            **self._variables,
            **variables,
            "messages": [_plain(message) for message in messages],
            "tools": None if tools is None else [dict(tool) for tool in tools],
            "add_generation_prompt": add_generation_prompt,
        }


def _plain(message: Mapping[str, object]) -> dict[str, object]:
    """A message as transformers hands it on: nothing that is None, reasoning under all its names."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[key] for key in _REASONING if key in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _check(messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] | None) -> None:
    if not messages:
        raise PromptError("there are no messages", remedy="give at least one, with a role and a content")
    if len(messages) > MAX_MESSAGES or len(tools or ()) > MAX_TOOLS:
        raise PromptError(
            f"there are {len(messages)} messages and {len(tools or ())} tools",
            cause=f"at most {MAX_MESSAGES} and {MAX_TOOLS} are allowed",
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(
                f"message {index} has no role",
                cause='a message is a mapping such as {"role": "user", "content": "Hello"}',
            )
    for index, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping):
            raise PromptError(f"tool {index} is no JSON schema", cause="a tool is a mapping")
