"""What comes back to the user, and how tokens become text on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boli.engine.record import RunRecord
from boli.engine.request import FinishReason, Request
from boli.engine.sampling import Sampled
from boli.text import StopMatcher

if TYPE_CHECKING:
    from boli.text import Tokenizer


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, on a monotonic clock, as llama.cpp counts it.

    Attributes:
        load_s: Loading the model, without its download, seconds.
        prefill_s: From the start of the first step (not from the submission) to the first token.
        decode_s: From the first token to the last.
        prefill_tokens_per_s: Prompt tokens that were computed, by `prefill_s`.
        decode_tokens_per_s: Generated tokens without the first, which the prefill yields, by
            `decode_s`; 0 if there were none.
    """

    load_s: float
    prefill_s: float
    decode_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float

    @classmethod
    def of(cls, request: Request, load_s: float) -> Timings:
        """The timings of a request that has ended."""
        end = request.finished_at
        started = request.started or end
        first = request.first_token or end
        prefill_s, decode_s = first - started, end - first
        prefilled = request.prompt_length - request.reused if request.output else 0
        decoded = len(request.output) - 1
        return cls(
            load_s=load_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            prefill_tokens_per_s=prefilled / prefill_s if prefill_s > 0.0 else 0.0,
            decode_tokens_per_s=decoded / decode_s if decoded > 0 and decode_s > 0.0 else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer.

    Attributes:
        text: What is new and will not change: never half a character, nothing of a stop string.
        token_ids: The tokens that are new since the chunk before. Their text may come in a later
            chunk, if it was not safe yet.
        logprobs: One entry for each of them, if asked for.
        finish_reason: In the last chunk why it is the last, otherwise None.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Sampled, ...] | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, with all it takes to repeat it.

    Attributes:
        text: The text, without the stop string and what is behind it.
        token_ids: All generated tokens, the end token and those of a stop string included.
        prompt_token_ids: The prompt's.
        finish_reason: `stop` for an end token or a stop string, `length` for max_tokens or the end of
            the context, `aborted` if nobody wanted more, `error` if `error` says what happened.
        logprobs: One entry for each of `token_ids`, if asked for.
        seed: What the tokens were drawn with, given or not.
        reused_tokens: Prompt tokens that were not computed because another request had computed them.
        drafted_tokens: Tokens that were guessed and verified in passing.
        accepted_tokens: How many of those were right, each of them a step saved.
        most_drafted: How many one step verified at most.
        timings: Where the time went.
        record: What a replay needs, and `LLM.replay` takes.
        error: Why a request of a batch failed; a single one raises it instead.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[Sampled] | None
    seed: int
    reused_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    most_drafted: int
    timings: Timings
    record: RunRecord
    error: Exception | None = None


class TextListener:
    """Turns a request's tokens into text while they come, and says when to stop.

    The engine's thread calls it with tokens, the reader's thread takes chunks out of it.

    Args:
        tokenizer: Of the model.
        prompt_ids: The prompt; some tokenizers render the first token differently after it.
        stop: Strings that end the text.
        ignore_eos: Whether an end token is a token like others.
        logprobs: Whether chunks carry log-probabilities.

    Attributes:
        abandoned: Whoever asked is gone; the request ends with its next token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        *,
        stop: Sequence[str],
        ignore_eos: bool,
        logprobs: bool,
    ) -> None:
        self._detokenizer = tokenizer.detokenizer(prompt_ids=prompt_ids)
        self._stops = StopMatcher(stop) if stop else None
        self._ends = frozenset[int]() if ignore_eos else tokenizer.eos_token_ids
        self._logprobs = logprobs
        self._fresh: deque[tuple[Sampled, str]] = deque()
        self._held: list[Sampled] = []
        self._taken: list[str] = []
        self._flushed = False
        self.abandoned = False

    @property
    def text(self) -> str:
        """All text that was taken."""
        return "".join(self._taken)

    def __call__(self, sampled: Sampled) -> bool:
        """Takes the next token; True if the request should end with it."""
        if self.abandoned:
            return True
        if sampled.id in self._ends:
            self._fresh.append((sampled, ""))
            return True
        text = self._detokenizer.push(sampled.id)
        if self._stops is not None:
            text = self._stops.push(text)
        self._fresh.append((sampled, text))
        return self._stops is not None and self._stops.matched is not None

    def take(self, request: Request) -> Chunk | None:
        """What is new, if it can be shown: text, or the end of the request."""
        finish_reason = request.finish_reason  # before the tokens: behind it none will follow
        text = ""
        while self._fresh:
            sampled, piece = self._fresh.popleft()
            self._held.append(sampled)
            text += piece
        if finish_reason is not None:
            text += self._flush(whole=finish_reason != "aborted")
        elif not text:
            return None
        if text:
            self._taken.append(text)
        held, self._held = tuple(self._held), []
        return Chunk(text, tuple(s.id for s in held), held if self._logprobs else None, finish_reason)

    def _flush(self, *, whole: bool) -> str:
        """The text that was held back in case more came; once.

        Args:
            whole: Whether bytes that are not a character yet become U+FFFD; they are dropped if the
                answer was cut off from outside.
        """
        if self._flushed or (self._stops is not None and self._stops.matched is not None):
            return ""
        self._flushed = True
        text = self._detokenizer.finish() if whole else ""
        return text if self._stops is None else self._stops.push(text) + self._stops.finish()
