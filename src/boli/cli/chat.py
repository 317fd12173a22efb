"""`boli chat`: a conversation with a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from boli.cli import arguments
from boli.cli.answer import document, keep, print_summary, write_answer
from boli.cli.options import Loading, Sampling, with_groups
from boli.cli.progress import TerminalProgress
from boli.cli.terminal import print_json
from boli.errors import UsageError

HELP = """Talk with a model.

Its own chat template is used. What was said stays in the KV cache, so each turn computes only
what is new.

Lines that begin with / are commands: /undo takes back the last question and its answer, /system
TEXT says how the model should behave, /save FILE writes the conversation as JSON, /help lists all,
/quit leaves. A line that ends with \\ goes on in the next. Ctrl-C stops an answer; at the prompt it
leaves, as Ctrl-D does. When stdin is not a terminal, each line of it is a turn.

\b
Examples:
  boli chat
  boli chat --system "Answer in one sentence."
  boli chat --once "Name three primes." --temperature 0
  printf 'Hi!\\nWho are you?\\n' | boli chat
"""


_TOP_P = 0.95

application = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, kw_only=True)
class ChatSampling(Sampling):
    """Livelier and longer than `Sampling`, as a conversation is."""

    max_tokens: arguments.MaxTokens = 512
    temperature: arguments.Temperature = 0.7
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Draw from the likeliest tokens that have P together; 1 is off.",
            show_default=f"{_TOP_P}; off at temperature 0",
        ),
    ] = None


@application.command(help=HELP)
@with_groups
def chat(
    *,
    once: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Answer this and leave; - reads stdin.", show_default=False),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="How the model should behave.", show_default="the template's own"),
    ] = None,
    model: arguments.Model = "smollm2",
    sampling: ChatSampling,
    loading: Loading,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document; needs --once.")] = False,
) -> None:
    """Talks with a model."""
    if json and once is None:
        raise UsageError("--json needs --once", remedy='say what to answer: boli chat --once "Hi" --json')
    question = None if once is None else arguments.read_text(once)
    if sampling.top_p is None and sampling.temperature > 0:
        sampling = replace(sampling, top_p=_TOP_P)
    options = sampling.options()
    from boli.cli.chat_session import ChatSession  # noqa: PLC0415  NumPy: only when the request is sound

    with TerminalProgress() as progress, loading.load(model, progress) as llm:
        conversation = llm.conversation(system)
        if question is None:
            ChatSession(llm, conversation, options).run()
            return
        with conversation.send(question, **options) as stream:
            if json:
                stream.run()
            else:
                write_answer(stream)
        completion = stream.completion
        if completion.error is not None:
            raise completion.error
        keep(completion)
        if json:
            messages = [dict(message) for message in conversation.messages]
            print_json(document(llm, completion, sampled=sampling.temperature > 0) | {"messages": messages})
        else:
            print_summary(completion, sampled=sampling.temperature > 0, loaded=True)
