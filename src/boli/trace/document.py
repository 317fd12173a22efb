"""The trace document: everything that views show, in JSON. `docs/trace-schema.md` describes it.

Numbers that a proof needs are exact: a logit is the shortest decimal that is the same float32. Others have
six digits, or four where only a picture is made of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

import boli
from boli.engine.record import settings
from boli.engine.sampling import Sampler, largest
from boli.machine import cpu_name
from boli.trace.arrays import array_bytes, packed
from boli.trace.chain import CUTS, ORDER, Chain, follow, log_normalizer
from boli.trace.facts import describe_layers, describe_model, describe_weights, kv_bytes_per_position
from boli.trace.lens import Guess, entropy, named
from boli.trace.stages import describe_stages
from boli.trace.words import describe_text, teller
from boli.weigh.engine_sizes import page_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boli.engine.batch import Float32
    from boli.engine.llm import LLM
    from boli.engine.record import RunRecord
    from boli.trace.observing import Evidence, Seen
    from boli.trace.prices import Price

SCHEMA: Final = "boli-trace/1"
# Candidates of a decision that are listed one by one: as many as the filters left, and as it takes to have
# nearly all of the probability; but no fewer than the first number, and no more than the second.
LISTED: Final = (16, 64)
_NEARLY_ALL: Final = 0.999
NAMED: Final = 8  # likeliest tokens under the model
_BARS: Final = 32  # of the histogram of what is not listed

Entry = dict[str, object]


def build(
    llm: LLM,
    run: RunRecord,
    evidence: Evidence,
    price: Price,
    chains: Sequence[Chain],
    roofline: Entry | None,
) -> Entry:
    """The document of a replay."""
    page_size = llm._engine.scheduler.page_size
    text, tokens = describe_text(llm.tokenizer, run)
    decide = _Deciding(llm, run, evidence, page_size)
    full = price.detail == "full"
    config = llm.blueprint.config
    document: Entry = {
        "schema": SCHEMA,
        "boli": boli.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "detail": price.detail,
        "price": {
            "bytes_predicted": price.bytes,
            "bytes": 0,
            "seconds_predicted": None if price.seconds is None else _short(price.seconds),
            "seconds": _short(evidence.seconds),
        },
        "proof": _proof(llm, run, evidence, chains),
        "model": describe_model(llm, page_size),
        "machine": {
            "cpu": cpu_name(),
            "threads": llm.threads,
            "read_bytes_per_s": None if roofline is None else roofline["read_bytes_per_s"],
        },
        "run": {
            "created": run.created,
            "seed": run.seed,
            "sampling": settings(run.sampling),
            "prompt_length": run.prompt_length,
            "generated": len(run.generated),
            "finish_reason": run.finish_reason,
            "reused_tokens": run.reused_tokens,
            "drafted_tokens": run.drafted_tokens,
            "accepted_tokens": run.accepted_tokens,
            "preemptions": run.preemptions,
            "timings": dict(run.timings),
        },
        "text": text,
        "tokens": tokens,
        "weights": describe_weights(llm),
        "stages": describe_stages(llm.blueprint),
        "layers": describe_layers(llm),
        "timed_stages": list(evidence.stage_names),
        "decisions": [
            decide(number, seen, chain)
            for number, (seen, chain) in enumerate(zip(evidence.decisions, chains, strict=True))
        ],
        "prompt_steps": [
            {"rows": rows, "first_position": first, "seconds": _short(seconds)}
            for rows, first, seconds in evidence.prompt_steps
        ],
        "prompt_lens": None,
        "prompt_values": {name: packed(v, "f4") for name, v in evidence.prompt_values.items()}
        if full
        else None,
        "prompt_attention": None,
        "roofline": roofline,
    }
    if evidence.prompt_top is not None:
        ids, shares = evidence.prompt_top
        # After the last layer is the end: what comes behind the layers is listed once more, as for decisions.
        ids, shares = np.hstack([ids, ids[:, -1:]]), np.hstack([shares, shares[:, -1:]])
        told = teller(llm.tokenizer)
        document["prompt_lens"] = {
            "text": [[told(int(token)) for token in row] for row in ids],
            "probability": packed(shares, "f2"),
        }
    if evidence.prompt_attention is not None:
        document["prompt_attention"] = {
            "first_position": 0,
            "shape": ["layer", "head", "row", "position"],
            "weights": packed(evidence.prompt_attention, "f4"),
        }
    assert config.num_hidden_layers == len(document["layers"])  # type: ignore[arg-type]
    document["price"]["bytes"] = array_bytes(document)  # type: ignore[index]
    return document


def chains_of(run: RunRecord, evidence: Evidence) -> list[Chain]:
    """How each token was chosen, from the logits of the replay."""
    prompt, output = run.token_ids[: run.prompt_length], run.generated
    return [
        follow(seen.logits, run.sampling, seed=run.seed, prompt=prompt, output=output[:number])
        for number, seen in enumerate(evidence.decisions)
    ]


def _proof(llm: LLM, run: RunRecord, evidence: Evidence, chains: Sequence[Chain]) -> Entry:
    """The replay held against the record, and against itself."""
    logits, logprobs = [], []
    for number, (seen, token) in enumerate(zip(evidence.decisions, run.generated, strict=True)):
        logits.append(_difference(float(seen.logits[token]), run.logits[number]))
        if run.logprobs is not None:
            highest, norm = log_normalizer(seen.logits)
            logprobs.append(_difference(float(seen.logits[token]) - highest - norm, run.logprobs[number]))
    recorded = run.logprobs is not None
    largest_logit = max(logits)
    # Where the run recorded no log-probabilities, equal logits of all chosen tokens stand for them.
    largest_logprob = max(logprobs) if recorded else 0.0 if largest_logit == 0.0 else None
    differences = [
        f"{name}: {there} in the run, {here} here"
        for name, there, here in (
            ("weights", run.model.weights, llm.weights.form),
            ("kv_cache_type", run.model.kv_cache_type, llm.kv_cache_type),
        )
        if there != here
    ]
    return {
        "compared": len(logits),
        "largest_logit_difference": largest_logit,
        "largest_logprob_difference": largest_logprob,
        "recorded": recorded,
        "same_model": run.model.hash == llm.fingerprint,
        "differences": differences,
        "lens_difference": max(
            _difference(0.0, float(np.abs(seen.lens.last - seen.logits).max())) for seen in evidence.decisions
        ),
        "sampler_reproduced": sum(
            chain.chosen == token for chain, token in zip(chains, run.generated, strict=True)
        ),
    }


def _difference(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other)


class _Deciding:
    """Writes the entries of `decisions`."""

    def __init__(self, llm: LLM, run: RunRecord, evidence: Evidence, page_size: int) -> None:
        self._llm, self._run, self._evidence, self._page_size = llm, run, evidence, page_size
        self._config = llm.blueprint.config
        self._told = teller(llm.tokenizer)
        self._position_bytes = round(
            self._config.num_hidden_layers * kv_bytes_per_position(self._config, llm.kv_cache_type)
        )
        self._page_bytes = llm.ledger.totals().get("kv_cache", 0) // llm._engine.runner.num_pages
        self._sampler = Sampler(run.sampling, run.token_ids[: run.prompt_length])
        self._sampler.seed = run.seed

    def __call__(self, number: int, seen: Seen, chain: Chain) -> Entry:
        run, logits, token = self._run, seen.logits, self._run.generated[number]
        highest, norm = log_normalizer(logits)
        recorded = None if run.logprobs is None else run.logprobs[number]
        likely = largest(logits, NAMED)
        entry: Entry = {
            "at": seen.at,
            "token": token,
            "text": self._told(token),
            "logit": _exact(logits[token]),
            "logprob": float(logits[token]) - highest - norm,
            "rank": int((logits > logits[token]).sum() + (logits[:token] == logits[token]).sum()),
            "entropy": _short(entropy(logits)),
            "recorded": {"logit": _exact(run.logits[number]), "logprob": _json(recorded)},
            "top": [
                {
                    "id": int(each),
                    "text": self._told(int(each)),
                    "logit": _exact(logits[each]),
                    "probability": _short(math.exp(float(logits[each]) - highest - norm)),
                }
                for each in likely
            ],
            "lens": self._lens(seen),
            "norms": _norms(seen),
            "attention": None,
            "sampler": describe_chain(chain, self._told, token),
            "kv": self._kv(seen.at + 1),
            "time": self._time(number, seen),
        }
        if seen.attention is not None:
            weights = packed(seen.attention, "f4" if self._full else "u1")
            entry["attention"] = {"first_position": 0, "weights": weights}
        if self._full:
            values = {name: packed(each, "f4") for name, each in seen.values.items()}
            entry["values"] = values | {"logits": packed(logits, "f4")}
        return entry

    @property
    def _full(self) -> bool:
        return self._evidence.prompt_attention is not None

    def _lens(self, seen: Seen) -> Entry:
        lens = seen.lens
        top = [_rounded(guesses) for guesses in lens.top]
        shares = [_short(share, 4) for share in lens.probability]
        # What comes behind the layers is what the last one says, listed once more.
        return {
            "top": [named(guesses, self._told) for guesses in (*top, top[-1])],
            "rank": [*lens.rank, lens.rank[-1]],
            "probability": [*shares, shares[-1]],
            "first_leads": lens.first_leads,
        }

    def _kv(self, positions: int) -> Entry:
        size = self._page_size
        pages = self._evidence.pages[: -(-positions // size)]
        windows = {self._config.window_of(layer) for layer in range(self._config.num_hidden_layers)} - {None}
        skipped = max((max(0, positions - (window or 0)) // size for window in windows), default=0)
        predicted = page_bytes(self._config, self._llm.kv_cache_type) * len(pages)
        return {
            "positions": positions,
            "pages": pages,
            "shared": self._run.reused_tokens // size,
            "evicted": self._evidence.evicted,
            "skipped": skipped,
            "bytes_used": positions * self._position_bytes,
            "bytes_allocated": len(pages) * self._page_bytes,
            "bytes_predicted": predicted,
        }

    def _time(self, number: int, seen: Seen) -> Entry:
        start = time.perf_counter()
        self._sampler.sample(seen.logits, number)
        sampling = time.perf_counter() - start
        return {
            "total": _short(seen.total),
            "rows": seen.rows,
            "embedding": _short(seen.other.get("embedding", 0.0)),
            "head": _short(seen.other.get("head", 0.0)),
            "sampling": _short(sampling),
            "layers": [[_short(each, 4) for each in layer] for layer in seen.seconds.tolist()],
        }


def describe_chain(chain: Chain, told: Callable[[int], str], chosen: int) -> Entry:
    """`sampler` of a decision: the likeliest candidates, the chosen one always among them, and the rest."""
    least, most = LISTED
    likely = chain.likeliest(most)
    covered = int(np.searchsorted(np.cumsum(chain.probabilities[likely]), _NEARLY_ALL)) + 1
    left = chain.kept.size if chain.kept.size <= most else 0
    listed = likely[: max(least, covered, left)]
    if chosen not in listed:
        listed = np.append(listed[:-1], chosen)
    rest = np.ones(chain.logits.size, bool)
    rest[listed] = False
    highest, norm = log_normalizer(chain.penalised)
    return {
        "order": list(ORDER),
        "candidates": [
            {
                "id": int(token),
                "text": told(int(token)),
                "logit": _exact(chain.logits[token]),
                "penalised": _exact(chain.penalised[token]),
                "scaled": _short(float(chain.scaled[token])),
                "probability": _short(float(chain.probabilities[token])),
                "cut": CUTS[chain.cut[token] - 1] if chain.cut[token] else None,
                "final": _short(chain.final(int(token))),
                "bucket": None if (bucket := chain.bucket(int(token))) is None else list(bucket),
            }
            for token in listed
        ],
        "rest": _rest(chain, rest),
        "kept": int(chain.kept.size),
        "greedy": chain.greedy,
        "uniform": chain.uniform,
        "chosen": chain.chosen,
        "normalizer": {"max": _exact(highest), "log_sum_exp": highest + norm},
    }


def _rest(chain: Chain, rest: NDArray[np.bool_]) -> Entry:
    """What is not listed: how many, how likely together, and how their logits are spread."""
    values = chain.penalised[rest].astype(np.float64)
    if not values.size:
        return {"count": 0, "probability": 0.0, "histogram": None}
    low, high = float(values.min()), float(values.max())
    width = max((high - low) / _BARS, 1e-6)
    counts = np.bincount(np.minimum((values - low) / width, _BARS - 1).astype(int), minlength=_BARS)
    return {
        "count": int(values.size),
        "probability": _short(float(chain.probabilities[rest].sum())),
        "histogram": {"low": _short(low), "width": _short(width), "counts": counts.tolist()},
    }


def _norms(seen: Seen) -> Entry:
    """Lengths of the vectors that flow through the layers."""
    values = seen.values

    def length(vectors: Float32) -> list[float]:
        return [_short(float(each), 5) for each in np.linalg.norm(vectors.astype(np.float64), axis=-1)]

    return {
        "residual": length(np.vstack([values["embedding"][None], values["residual"]])),
        "attention_branch": length(values["attention_branch"]),
        "mlp_branch": length(values["mlp_branch"]),
    }


def _rounded(guesses: Sequence[Guess]) -> list[Guess]:
    return [Guess(guess.id, _short(guess.probability, 4)) for guess in guesses]


def _short(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _exact(value: float | np.float32) -> float:
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(value)))


def _json(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is None or math.isfinite(value) else None
