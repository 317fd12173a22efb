"""What a reply says about itself: its tokens, and what they took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boli.server.answer import Answer
from boli.server.context import Context
from boli.server.sampling_fields import BoliOptions


def usage(answers: Sequence[Answer], *, prompts: int = 1) -> dict[str, Any]:
    """OpenAI's account of tokens: each prompt once, and every token that was generated.

    Args:
        answers: Of one request, those of a prompt side by side.
        prompts: How many prompts it had.
    """
    firsts = answers[:: max(1, len(answers) // prompts)]
    prompt = sum(answer.prompt_tokens for answer in firsts)
    completion = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in firsts)},
    }


async def extras(context: Context, options: BoliOptions | None, answers: Sequence[Answer]) -> dict[str, Any]:
    """What was asked for as `"boli": {…}`: nothing, or the receipt of each answer."""
    if options is None or not options.receipt:
        return {}
    return {"boli": {"receipts": await context.receipts.of(list(answers))}}
