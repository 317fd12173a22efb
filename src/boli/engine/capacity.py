"""How long a context may be, and how many pages of KV cache that takes."""

from __future__ import annotations

from boli.blueprint.config import Config
from boli.errors import OutOfMemory, UsageError

MAX_ROWS = 512  # of a step: long enough to use a kernel well, short enough to keep streams flowing
MAX_SEQUENCES = 16  # of a step; more requests wait
DEFAULT_CONTEXT = 8192
DEFAULT_SHARE = 4  # by default the cache takes at most a quarter of the memory that is free
SHORT = 128  # positions of a short request, for which there is room beside a full context


def choose_context(
    config: Config,
    requested: int | None,
    *,
    page_size: int,
    page_bytes: int,
    max_sequences: int,
    available: int,
) -> int:
    """The most tokens that prompt and answer may have together.

    Args:
        config: The model.
        requested: What the user asked for, or None for what the model can do, at most 8,192 and at
            most what a quarter of the free memory holds, with the pages of others beside it.
        page_size: Positions in a page.
        page_bytes: Bytes of a page.
        max_sequences: The most requests that run at once.
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
    pages = available // DEFAULT_SHARE // page_bytes
    if not pages:
        from boli.engine.ledger import readable  # noqa: PLC0415  NumPy; `boli weigh` does without

        raise OutOfMemory(
            f"there is no room for a KV cache: {readable(available)} are free, "
            f"and {page_size} tokens take {readable(page_bytes)}",
            remedy="close other programs, or choose a smaller model",
        )
    pages = max(1, pages - min((pages + 1) // 2, _pages_beside(page_size, max_sequences)))
    return min(most, DEFAULT_CONTEXT, pages * page_size)


def choose_cache(
    config: Config,
    requested: int | None,
    kv_cache_bytes: int | None,
    *,
    page_size: int,
    page_bytes: int,
    max_sequences: int,
    available: int,
) -> tuple[int, int]:
    """The context, and the pages of the KV cache.

    Args:
        config: The model.
        requested: As for `choose_context`; where only `kv_cache_bytes` is given, what fits into that.
        kv_cache_bytes: What the cache may take, or None for `pages_for` the context.
        page_size: Positions in a page.
        page_bytes: Bytes of a page.
        max_sequences: The most requests that run at once.
        available: Bytes of memory that are free.

    Raises:
        UsageError, OutOfMemory: As `choose_context`; or so many bytes do not hold the context.
    """
    if kv_cache_bytes is None:
        context = choose_context(
            config,
            requested,
            page_size=page_size,
            page_bytes=page_bytes,
            max_sequences=max_sequences,
            available=available,
        )
        return context, pages_for(context, page_size=page_size, max_sequences=max_sequences)
    pages = kv_cache_bytes // page_bytes
    wished = requested or min(config.max_position_embeddings, DEFAULT_CONTEXT, max(1, pages) * page_size)
    context = choose_context(
        config,
        wished,
        page_size=page_size,
        page_bytes=page_bytes,
        max_sequences=max_sequences,
        available=available,
    )
    needed = -(-context // page_size)
    if pages < needed:
        raise UsageError(
            f"{kv_cache_bytes:,} bytes of KV cache do not hold a context of {context:,} tokens",
            cause=f"it takes {needed} pages of {page_size} tokens, {page_bytes:,} bytes each",
            remedy=f"allow {needed * page_bytes:,} bytes, or choose a smaller context",
        )
    return context, pages


def pages_for(context: int, *, page_size: int, max_sequences: int) -> int:
    """Pages for one full context and, at most as many again, for short requests beside it.

    With fewer than its requests want, the engine puts the youngest off; with more, it remembers more of
    what it has computed.
    """
    pages = -(-context // page_size)
    return pages + min(pages, _pages_beside(page_size, max_sequences))


def _pages_beside(page_size: int, max_sequences: int) -> int:
    return (max_sequences - 1) * -(-SHORT // page_size)
