"""How long a context may be, and how many pages of KV cache that takes."""

from __future__ import annotations

from boli.blueprint.config import Config
from boli.engine.ledger import readable
from boli.errors import OutOfMemory, UsageError

DEFAULT_CONTEXT = 8192
DEFAULT_SHARE = 4  # by default the cache takes at most a quarter of the memory that is free


def choose_context(
    config: Config, requested: int | None, *, page_size: int, page_bytes: int, available: int
) -> int:
    """The most tokens that prompt and answer may have together.

    Args:
        config: The model.
        requested: What the user asked for, or None for what the model can do, at most 8,192 and at
            most what a quarter of the free memory holds.
        page_size: Positions in a page.
        page_bytes: Bytes of a page.
        available: Bytes of memory that are free.

    Raises:
        UsageError: The request is not a number from 2 to what the model was made for.
        OutOfMemory: By default not even one page would fit.
    """
    most = config.max_position_embeddings
    if requested is not None:
        if isinstance(requested, bool) or not isinstance(requested, int) or not 2 <= requested <= most:
            raise UsageError(
                f"the context must be a whole number between 2 and {most:,}, not {requested!r}",
                cause=f"the model was made for {most:,} positions",
            )
        return requested
    affordable = available // DEFAULT_SHARE // page_bytes * page_size
    if affordable < page_size:
        raise OutOfMemory(
            f"there is no room for a KV cache: {readable(available)} are free, "
            f"and {page_size} tokens take {readable(page_bytes)}",
            remedy="close other programs, or choose a smaller model",
        )
    return min(most, DEFAULT_CONTEXT, affordable)


def pages_for(context: int, *, page_size: int, max_sequences: int) -> int:
    """Pages for one full context, or for several shorter requests that leave their last pages half empty."""
    return -(-context // page_size) + max_sequences - 1
