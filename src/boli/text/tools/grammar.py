"""What a model may write when it has tools, as a grammar in llguidance's dialect of Lark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from boli.text.tools.formats import OPENING, ToolFormat

_ANY = r"/(.|\n)*/"
_SPACES = r"[ \n\t\r]"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be written.

    Attributes:
        name: Of the function.
        arguments: What its arguments are, as a right-hand side in Lark; a JSON object.
    """

    name: str
    arguments: str


def calls_grammar(
    shape: ToolFormat, calls: Sequence[Call], *, required: bool, parallel: bool, text: str | None = None
) -> str:
    """The grammar of an answer.

    Text is free, but what begins as a call is one: of a function that exists, with arguments as they must be.

    Args:
        shape: How the model writes calls.
        calls: The functions, at least one.
        required: The answer is one or more calls; otherwise it may be text, or text and calls.
        parallel: There may be more than one call, if the format has that.
        text: What an answer without calls must be, as a right-hand side; None for any text. Only where calls
            are tagged: bare ones begin as other JSON does, and the lexer does not turn back.
    """
    several = parallel and shape.parallel
    rules = [f"call: {' | '.join(f'call_{index}' for index in range(len(calls)))}"]
    for index, call in enumerate(calls):
        head = f'{{"name": {json.dumps(call.name)}, "{shape.arguments_key}": '
        rules.append(f'call_{index}: {json.dumps(head)} {call.arguments} "}}"')
    inner = 'call (", " call)*' if shape.listed and several else "call"
    # Behind the tag, which is in the text before it, where calls may follow text.
    rest = json.dumps(shape.opening.removeprefix(OPENING))
    closing = json.dumps(shape.closing)
    form = [] if text is None else [f"form: {text}"]
    if not shape.tagged:
        if required:
            start = ["start: call"]
        else:
            # What does not begin like a call can never become one.
            start = ["start: call | PLAIN", f"PLAIN: /{_SPACES}*([^{{ \\n\\t\\r](.|\\n)*)?/"]
    elif required or form:
        block = f"block: {json.dumps(OPENING)} {rest} {inner} {closing}"
        more = ' ("\\n" block)*' if several and not shape.listed else ""
        start = [f"start: block{more}" + ("" if required else " | form"), block, *([] if required else form)]
    else:
        block = f"block: head {rest} {inner} {closing}"
        whole = "start: block* TEXT" if several else "start: block | TEXT"
        start = [whole, block, f"head[lazy]: TEXT {json.dumps(OPENING)}", f"TEXT: {_ANY}"]
    return "\n".join([*start, *rules, ""])
