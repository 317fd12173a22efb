"""What a run keeps, so that it can be repeated and looked into later: a few bytes a token.

A run is determined by its token ids, its seed and its settings. So that a replay can prove itself, the
record also has the logit of each chosen token, as float32 came out of the model; and, where they were asked
for, log-probabilities. A logit costs nothing to keep; a log-probability needs a sum over the vocabulary, a
millisecond a token where that is large, so the record does not ask for it by itself.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, get_args

from boli.engine.constraint import MAX_GRAMMAR_BYTES, Kind, Source
from boli.engine.json_files import Taking, read_json
from boli.engine.params import SamplingParams
from boli.engine.request import FinishReason
from boli.engine.whole_file import write_whole
from boli.errors import StorageError, UsageError
from boli.machine import cache_dir

if TYPE_CHECKING:
    from boli.engine.llm import LLM
    from boli.engine.request import Request

SCHEMA: Final = "boli-run/1"
#: A record is read only if its file is no larger; one of a million tokens has about 40 MB.
LARGEST_FILE: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which model answered, and how it was loaded.

    Attributes:
        name: What typing loads it again.
        path: The folder or file it was read from.
        format: `gguf` or `safetensors`.
        weights: The form of the matrices: `stored`, `bf16`, `int8` or `int4`.
        kv_cache_type: What keys and values are kept as.
        threads: How many computed.
        context: The most tokens of prompt and answer.
        hash: Of the model's files; see `boli.formats.fingerprint`. Empty if it has none.
    """

    name: str
    path: str
    format: str
    weights: str
    kv_cache_type: str
    threads: int
    context: int
    hash: str

    @classmethod
    def of(cls, llm: LLM) -> Identity:
        """That of a loaded model."""
        return cls(
            name=llm.name,
            path=str(llm.path.absolute()),
            format=llm.format,
            weights=llm.weights.form,
            kv_cache_type=llm.kv_cache_type,
            threads=llm.threads,
            context=llm.context,
            hash=llm.fingerprint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request comes from: what the engine itself does not know of it.

    Attributes:
        model: Who is asked.
        load_s: Seconds that loading took.
        text: The prompt, if it was a text.
        messages: The conversation, if it was one.
    """

    model: Identity
    load_s: float = 0.0
    text: str | None = None
    messages: Sequence[Mapping[str, object]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run that can be repeated.

    Attributes:
        created: When it ended, UTC, ISO 8601.
        model: Who answered.
        token_ids: The prompt's, then the generated ones.
        prompt_length: How many are the prompt's.
        seed: What tokens were drawn with, given or not.
        sampling: The settings.
        logits: Of each generated token, as the model gave it.
        logprobs: The same as natural-log probabilities of the model, or None if they were not asked for.
        text: The prompt, if it was a text.
        messages: The conversation, if it was one.
        answer: The text that came out.
        finish_reason: Why it ended.
        reused_tokens: Prompt tokens whose keys and values were there already.
        drafted_tokens: Guessed and verified in passing.
        accepted_tokens: Of those, right.
        preemptions: How often it gave its pages back, and was computed again.
        timings: As `boli.Timings`, by name.
        constraint: What the answer had to be; None for anything, and in files from before this was kept.
    """

    created: str
    model: Identity
    token_ids: tuple[int, ...]
    prompt_length: int
    seed: int
    sampling: SamplingParams
    logits: tuple[float, ...]
    logprobs: tuple[float, ...] | None
    text: str | None
    messages: tuple[Mapping[str, object], ...] | None
    answer: str
    finish_reason: FinishReason
    reused_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    timings: Mapping[str, float]
    constraint: Source | None = None

    @property
    def generated(self) -> tuple[int, ...]:
        """The ids of the answer."""
        return self.token_ids[self.prompt_length :]

    @classmethod
    def of(cls, request: Request, origin: Origin, answer: str, timings: Mapping[str, float]) -> RunRecord:
        """The record of a request that has ended."""
        params, guesses = request.sampler.params, request.guesses
        logprobs = None
        if params.logprobs is not None:
            logprobs = tuple(-math.inf if s.logprob is None else s.logprob for s in request.output)
        return cls(
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model=origin.model,
            token_ids=tuple(request.tokens),
            prompt_length=request.prompt_length,
            seed=request.sampler.seed,
            sampling=params,
            logits=tuple(sampled.logit for sampled in request.output),
            logprobs=logprobs,
            text=origin.text,
            messages=None if origin.messages is None else tuple(dict(each) for each in origin.messages),
            answer=answer,
            finish_reason=request.finish_reason or "aborted",
            reused_tokens=request.reused,
            drafted_tokens=0 if guesses is None else guesses.drafted,
            accepted_tokens=0 if guesses is None else guesses.accepted,
            preemptions=request.preemptions,
            timings=timings,
            constraint=None if request.constraint is None else request.constraint.source,
        )

    def to_json(self) -> dict[str, object]:
        """The record as a document; minus infinity, which JSON does not have, is null."""
        document: dict[str, object] = {"schema": SCHEMA}
        document |= {field.name: getattr(self, field.name) for field in fields(self)}
        logprobs = self.logprobs
        return document | {
            "model": asdict(self.model),
            "sampling": settings(self.sampling),
            "logprobs": None if logprobs is None else [v if math.isfinite(v) else None for v in logprobs],
            "constraint": None if self.constraint is None else asdict(self.constraint),
        }

    @classmethod
    def from_json(cls, document: object, source: str = "the run") -> RunRecord:
        """Reads a document, believing none of it.

        Args:
            document: What `json.loads` gave.
            source: What to call it in an error.

        Raises:
            CorruptFile: A part is missing, of the wrong type or contradicts another.
        """
        take = Taking(document, source)
        if take.whole.get("schema") != SCHEMA:
            raise take.wrong(f"its schema is {take.whole.get('schema')!r}, and boli reads {SCHEMA!r}")
        ids = take.numbers("token_ids", int)
        length, answered = take("prompt_length", int), take.numbers("logits", float)
        if not 1 <= length <= len(ids) or min(ids) < 0 or max(ids) >= 1 << 31:
            raise take.wrong("its token ids are no prompt with an answer")
        logprobs = (
            None if take.whole.get("logprobs") is None else take.numbers("logprobs", float, null=-math.inf)
        )
        if {len(answered), len(answered if logprobs is None else logprobs)} != {len(ids) - length}:
            raise take.wrong("there is not one logit for each token of its answer")
        messages = take.whole.get("messages")
        if messages is not None and not (
            isinstance(messages, list) and all(isinstance(each, dict) for each in messages)
        ):
            raise take.wrong("'messages' is no list of messages")
        if take("finish_reason", str) not in get_args(FinishReason):
            raise take.wrong("it ended for no reason that boli knows")
        return cls(
            created=take("created", str),
            model=_identity(Taking(take("model", dict), source)),
            token_ids=ids,
            prompt_length=length,
            seed=take("seed", int),
            sampling=_sampling(take),
            logits=answered,
            logprobs=logprobs,
            text=None if take.whole.get("text") is None else take("text", str),
            messages=None if messages is None else tuple(messages),
            answer=take("answer", str),
            finish_reason=cast("FinishReason", take("finish_reason", str)),
            **{name: take(name, int) for name in _COUNTS},
            timings=Taking(take("timings", dict), source).all_numbers(),
            constraint=None if take.whole.get("constraint") is None else _constraint(take, source),
        )  # fmt: skip


def _identity(take: Taking) -> Identity:
    return Identity(**{each.name: take(each.name, _TYPES[str(each.type)]) for each in fields(Identity)})


def _constraint(take: Taking, source: str) -> Source:
    part = Taking(take("constraint", dict), source)
    kind, text = part("kind", str), part("text", str)
    if kind not in get_args(Kind) or len(text) > MAX_GRAMMAR_BYTES:
        raise take.wrong("its answer had to be something that boli does not know, or too much")
    return Source(cast("Kind", kind), text)


def settings(params: SamplingParams) -> dict[str, object]:
    """Sampling settings as JSON has them, and `SamplingParams.from_options` takes them."""
    return asdict(params) | {
        "stop": list(params.stop),
        "logit_bias": {str(token): bias for token, bias in params.logit_bias},
    }


_COUNTS: Final = ("reused_tokens", "drafted_tokens", "accepted_tokens", "preemptions")
_TYPES: Final[Mapping[str, type]] = {"str": str, "int": int}


def _sampling(take: Taking) -> SamplingParams:
    try:
        return SamplingParams.from_options(take("sampling", dict))
    except UsageError as error:
        raise take.wrong(f"its settings make no sense: {error.message}") from error


def last_run() -> Path:
    """Where the command line keeps its last run; it may not exist."""
    return cache_dir() / "runs" / "last.json"


def keep_last(record: RunRecord) -> None:
    """Keeps a run for `boli trace --last`, in a folder and a file that only the owner can read.

    The environment's `BOLI_KEEP_RUNS=0` turns it off.

    Raises:
        StorageError: It could not be written.
    """
    if os.environ.get("BOLI_KEEP_RUNS") == "0" or not record.generated:
        return
    path = last_run()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    except OSError as error:
        raise StorageError(f"there can be no folder {path.parent}", cause=error.strerror or "") from error
    save_record(record, path)


def save_record(record: RunRecord, path: str | Path) -> None:
    """Writes a run as JSON, in one piece.

    Raises:
        StorageError: It could not be written.
    """
    write_whole(path, json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False) + "\n", "the run")


def load_record(path: str | Path) -> RunRecord:
    """Reads a run.

    Raises:
        ModelNotFound: There is no such file.
        CorruptFile: It is no run, is too large, was cut short or edited.
    """
    return RunRecord.from_json(read_json(Path(path), LARGEST_FILE), Path(path).name)
