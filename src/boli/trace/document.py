"""The trace document: everything that views show, in JSON. `docs/trace-schema.md` describes it.

Numbers that a proof needs are exact: a logit is the shortest decimal that is the same float32. Others have
six digits, or four where only a picture is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

import boli
from boli.engine.record import settings
from boli.machine import cpu_name
from boli.trace.arrays import array_bytes, packed
from boli.trace.chain import Chain, follow, log_normalizer
from boli.trace.deciding import Deciding
from boli.trace.facts import describe_layers, describe_model, describe_weights
from boli.trace.numerals import short
from boli.trace.stages import describe_stages
from boli.trace.words import describe_text, teller

if TYPE_CHECKING:
    from boli.engine.llm import LLM
    from boli.engine.record import RunRecord
    from boli.trace.observing import Evidence
    from boli.trace.prices import Price

SCHEMA: Final = "boli-trace/1"

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
    decide = Deciding(llm, run, evidence, page_size)
    full = price.detail == "full"
    document: Entry = {
        "schema": SCHEMA,
        "boli": boli.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "detail": price.detail,
        "price": {
            "bytes_predicted": price.bytes,
            "bytes": 0,
            "seconds_predicted": None if price.seconds is None else short(price.seconds),
            "seconds": short(evidence.seconds),
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
            {"rows": rows, "first_position": first, "seconds": short(seconds)}
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
