"""An assistant's turn: from a checked request to a stream of what is new, for every form of reply.

`/v1/chat/completions` writes it in its own form; the converters (responses, messages, Ollama) make a
`ChatRequest` of theirs, call `begin`, and write the same turn in theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from boli.engine.sampling import Sampled
from boli.server.answer import Answer, Job, Mailbox
from boli.server.chat_wire import ChatRequest
from boli.server.context import Caller, Context
from boli.server.formats import form_of
from boli.server.sampling_fields import varied
from boli.server.tools import CallDelta, Reader, use_tools

if TYPE_CHECKING:
    from boli.engine.constraint import Constraint

Ending = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new in one choice.

    Attributes:
        index: The choice.
        text: New text.
        calls: New parts of tool calls.
        sampled: The tokens with their log-probabilities, if those were asked for.
        finish_reason: In the last one of a choice.
    """

    index: int
    text: str
    calls: tuple[CallDelta, ...] = ()
    sampled: tuple[Sampled, ...] = ()
    finish_reason: Ending | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a conversation is put to the model, and how its answer is read.

    Attributes:
        messages: As the chat template takes them.
        template_tools: The tools that the template writes into the prompt.
        template_variables: Further names for the template.
        constraint: What the answer must be.
        make_reader: Gives each answer a reader of its tool calls; None where there are no tools.
    """

    messages: list[dict[str, Any]]
    template_tools: list[dict[str, Any]] | None = None
    template_variables: dict[str, Any] = field(default_factory=dict)
    constraint: Constraint | None = None
    make_reader: Callable[[], Reader] | None = None


@dataclass
class Turn:
    """The answers to one conversation, `n` of them, read together.

    Attributes:
        answers: One for each choice.
        make_reader: Gives each a reader of its tool calls, if there are tools.
    """

    answers: list[Answer]
    make_reader: Callable[[], Reader] | None = None
    _left: int = field(init=False)
    _index: dict[Answer, int] = field(init=False)
    _readers: list[Reader] = field(init=False)
    _called: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._left = len(self.answers)
        self._index = {answer: index for index, answer in enumerate(self.answers)}
        self._readers = [] if self.make_reader is None else [self.make_reader() for _ in self.answers]

    @property
    def mailbox(self) -> Mailbox:
        """Where the answers say that there is something."""
        return self.answers[0].mailbox

    async def next(self, patience: float | None = None) -> Delta | None:
        """What is new; None if nothing came for `patience` seconds, or never will (see `over`).

        Raises:
            Exception: What ended one of the answers, if an error did; the others are cancelled.
        """
        try:
            while self._left:
                answer = await self.mailbox.next(patience)
                if answer is None:
                    return None
                delta = self._take(answer)
                if delta is not None:
                    return delta
        except BaseException:
            self.cancel()
            raise
        return None

    @property
    def over(self) -> bool:
        """Whether all answers have been read to their ends."""
        return not self._left

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """All deltas, to the end."""
        while not self.over:
            delta = await self.next()
            if delta is not None:
                yield delta

    async def text(self) -> list[str]:
        """Reads everything; the text of each choice."""
        texts = [""] * len(self.answers)
        async for delta in self:
            texts[delta.index] += delta.text
        return texts

    def cancel(self) -> None:
        """Ends all answers."""
        for answer in self.answers:
            answer.cancel()

    def _take(self, answer: Answer) -> Delta | None:
        if answer.ended:
            return None
        piece = answer.take()
        if piece is None:
            if answer.closed:
                answer.ended = True
                self._left -= 1
            return None
        ending: Ending | None = None
        if piece.finish_reason is not None:
            self._left -= 1
            ending = "length" if piece.finish_reason == "length" else "stop"
        index = self._index[answer]
        if not self._readers:
            return Delta(index, piece.text, (), piece.sampled, ending)
        text, calls = self._readers[index].feed(piece.text)
        if ending is not None:
            rest, more = self._readers[index].finish()
            text, calls = text + rest, calls + more
        if calls:
            self._called.add(index)
        if ending == "stop" and index in self._called:
            ending = "tool_calls"
        return Delta(index, text, calls, piece.sampled, ending)


async def begin(context: Context, request: ChatRequest, caller: Caller, request_id: str) -> Turn:
    """Starts to answer a conversation.

    Raises:
        ApiError, BoliError: It cannot be; nothing runs.
    """
    plan = await context.in_grammar_thread(plan_of, context, request)
    ids = await context.service.in_text_thread(_encode, context, plan, True)
    # What does not fit into the context is not generated.
    most = min(request.most_tokens or context.llm.context, context.llm.context)
    params = request.params(max_tokens=most, logprobs=request.wanted_logprobs)
    jobs = [
        Job(
            prompt_ids=ids,
            params=each,
            salt=caller.salt,
            request_id=request_id,
            choice=choice,
            label=caller.label,
            constraint=plan.constraint,
            messages=plan.messages,
        )
        for choice, each in enumerate(varied(params, request.n or 1))
    ]
    return Turn(await context.service.submit_all(jobs), plan.make_reader)


async def prompt_of(
    context: Context, request: ChatRequest, *, add_generation_prompt: bool = True
) -> list[int]:
    """The token ids of a conversation as the model would read it.

    Raises:
        ApiError, BoliError: It cannot be rendered.
    """
    plan = await context.in_grammar_thread(plan_of, context, request)
    return await context.service.in_text_thread(_encode, context, plan, add_generation_prompt)


def plan_of(context: Context, request: ChatRequest) -> Plan:
    """The plan of a conversation. Compiles its schemas, which may take seconds.

    Raises:
        ApiError: The model cannot do what is asked for, or the fields contradict each other.
    """
    form = form_of(request)
    tools = use_tools(request, form, context.llm.tokenizer, context.grammars)
    constraint = tools.constraint
    if constraint is None and form is not None:
        constraint = form.constraint(context.grammars)
    asked = request.chat_template_kwargs
    return Plan(
        messages=tools.messages,
        template_tools=tools.described,
        template_variables={
            **({} if asked is None else asked.model_dump(exclude_none=True)),
            **tools.variables,
        },
        constraint=constraint,
        make_reader=tools.make_reader,
    )


def _encode(context: Context, plan: Plan, add_generation_prompt: bool) -> list[int]:
    tokenizer = context.llm.tokenizer
    text = tokenizer.require_chat_template().render(
        plan.messages,
        add_generation_prompt=add_generation_prompt,
        tools=plan.template_tools,
        **plan.template_variables,
    )
    return tokenizer.encode_chat(text)
