"""The trace document: everything that views show, in JSON. `docs/trace-schema.md` describes it.

Numbers that a proof needs are exact: a logit is the shortest decimal that is the same float32. Others have
six digits, or four where only a picture is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    from boli.engine.constraint import Constraint
    from boli.engine.llm import LLM
    from boli.engine.record import RunRecord
    from boli.trace.observing import Evidence
    from boli.trace.prices import Detail, Price

SCHEMA: Final = "boli-trace/1"

Entry = dict[str, object]


def build(
    llm: LLM,
    run: RunRecord,
    evidence: Evidence,
    detail: Detail,
    prices: Mapping[Detail, Price],
    chains: Sequence[Chain],
    roofline: Entry | None,
) -> Entry:
    """The document of a replay, made in a `detail` that has its place among `prices`."""
    page_size = llm._engine.scheduler.page_size
    text, tokens = describe_text(llm.tokenizer, run)
    decide = Deciding(llm, run, evidence, page_size)
    price = prices[detail]
    document: Entry = {
        "schema": SCHEMA,
        "boli": boli.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "detail": detail,
        "price": {
            "bytes_predicted": price.bytes,
            "bytes": 0,
            "seconds_predicted": _seconds(price),
            "seconds": short(evidence.seconds),
            "offers": [
                {"detail": each.detail, "bytes": each.bytes, "seconds": _seconds(each)}
                for each in prices.values()
            ],
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
            "constraint": None if run.constraint is None else asdict(run.constraint),
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
        if detail == "full"
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


def chains_of(run: RunRecord, evidence: Evidence, constraint: Constraint | None = None) -> list[Chain]:
    """How each token was chosen, from the logits of the replay.

    Args:
        run: The run.
        evidence: What was seen of it again.
        constraint: What its answer had to be.

    Raises:
        GrammarError: The constraint does not let the run's own tokens through.
    """
    prompt, output = run.token_ids[: run.prompt_length], run.generated
    walk = None if constraint is None else constraint.begin()
    chains: list[Chain] = []
    for number, seen in enumerate(evidence.decisions):
        allowed = None if walk is None else walk.allowed().copy()
        so_far = output[:number]
        chains.append(
            follow(seen.logits, run.sampling, seed=run.seed, prompt=prompt, output=so_far, allowed=allowed)
        )
        if walk is not None:
            walk.accept(output[number])
    return chains


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


def _seconds(price: Price) -> float | None:
    return None if price.seconds is None else short(price.seconds)


def _difference(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other)
