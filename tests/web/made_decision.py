"""Makes the decisions of a made document: logits drawn, and what the engine's own sampler does with them."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from boli.engine.batch import Float32
from boli.engine.constraint import Bools, Source
from boli.engine.params import SamplingParams
from boli.engine.penalties import Penalties
from boli.engine.random import uniform
from boli.engine.sampling import Distribution, Sampler
from boli.trace.chain import follow
from boli.trace.sieve import describe_chain

JsonObject = dict[str, Any]
Floats = npt.NDArray[np.float64]
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 576, 1536, 9, 3, 64, 49152
PAGE: Final = 32
TIMED: Final = [
    "attention_norm+qkv",
    "rope+cache",
    "attention",
    "output_projection",
    "mlp_norm+gate_up",
    "down",
]
_TIME_SHARES: Final = np.array([0.20, 0.02, 0.07, 0.12, 0.39, 0.20])


class Held:
    """A constraint and its walk: the wanted token and some others, none of them the likeliest."""

    vocab_size = VOCABULARY
    source: Source | None = None
    finished = False

    def allow(self, generator: np.random.Generator, wanted: int, number: int, logits: Float32) -> None:
        """Says what may come now: 12 tokens, then 1, then 3,000, and again."""
        self._allowed = np.zeros(VOCABULARY, bool)
        others = np.argsort(-logits, kind="stable")[8:]
        self._allowed[generator.choice(others, (11, 0, 2999)[number % 3], replace=False)] = True
        self._allowed[wanted] = True

    def begin(self) -> Held:
        return self

    def allowed(self) -> Bools:
        return self._allowed

    def accept(self, token: int) -> None:
        assert self._allowed[token]


def packed(values: npt.NDArray[Any], dtype: str) -> JsonObject:
    """An array as the schema writes it."""
    document: JsonObject = {"dtype": dtype, "shape": list(values.shape)}
    if dtype == "u1":
        document["scale"] = 1 / 255
        values = np.clip(np.rint(values * 255), 0, 255)
    stored = values.astype({"u1": "u1", "f2": "<f2", "f4": "<f4", "i4": "<i4"}[dtype])
    return {**document, "data": base64.b64encode(stored.tobytes()).decode()}


def make_decision(
    generator: np.random.Generator,
    sampler: Sampler,
    penalties: Penalties,
    vocabulary: list[str],
    wanted: int,
    number: int,
    prompt: int,
    layers: int,
    ids: Sequence[int],
    held: Held | None,
) -> JsonObject:
    """One token, chosen by the real sampler from drawn logits among which `wanted` is likely."""
    params = sampler.params
    logits = generator.normal(-2.0, 1.5, VOCABULARY).astype(np.float32)
    logits[: len(vocabulary)] = generator.normal(9.0, 1.6, len(vocabulary))
    logits[wanted] = 13.0 + 4.0 * generator.random()
    penalised = penalties.apply(logits)
    if held is not None:
        held.allow(generator, wanted, number, penalised)
    u = uniform(sampler.seed, number)
    greedy = params.temperature == 0.0
    left = None if greedy else sampler.distribution(logits)
    token = sampler.sample(logits, number).id
    penalties.accept(token)
    probabilities = _softmax(logits.astype(np.float64))
    order = np.argsort(-logits, kind="stable")
    at = prompt + number - 1
    positions = at + 1

    def named(index: int) -> str:
        return vocabulary[index] if index < len(vocabulary) else f" w{index}"

    attention = generator.dirichlet(np.full(positions, 0.12), (layers, HEADS))
    sink = generator.beta(5, 1.6, (layers, HEADS, 1)) if positions > 1 else np.ones((layers, HEADS, 1))
    attention *= 1 - sink
    attention[:, :, :1] += sink
    leads = int(generator.integers(layers // 2, layers))
    return {
        "at": at,
        "token": token,
        "text": named(token),
        "logit": float(logits[token]),
        "logprob": math.log(probabilities[token]),
        "rank": int((logits > logits[token]).sum()),
        "entropy": float(-(probabilities * np.log(probabilities + 1e-300)).sum()),
        "recorded": {"logit": float(logits[token]), "logprob": None},
        "top": [
            {
                "id": int(i),
                "text": named(int(i)),
                "logit": float(logits[i]),
                "probability": float(probabilities[i]),
            }
            for i in order[:32]
        ],
        "lens": _lens(
            generator, {named(int(i)): int(i) for i in [*order[:40], token]}, named(token), leads, layers
        ),
        "norms": {
            "residual": (4 + np.cumsum(generator.gamma(2, 1.5, layers + 1))).round(3).tolist(),
            "attention_branch": generator.gamma(2, 0.8, layers).round(3).tolist(),
            "mlp_branch": generator.gamma(2, 1.4, layers).round(3).tolist(),
        },
        "attention": {"first_position": 0, "weights": packed(attention, "u1")},
        "sampler": _chain(params, left, logits, penalised, token, None if greedy else u, named)
        if held is None
        else describe_chain(
            follow(
                logits,
                params,
                seed=sampler.seed,
                prompt=ids[:prompt],
                output=ids[prompt:],
                allowed=held.allowed(),
            ),
            named,
            token,
        ),
        "kv": _kv(positions, layers),
        "time": _time(generator, positions, layers),
    }


def _chain(
    params: SamplingParams,
    left: Distribution | None,
    logits: npt.NDArray[np.float32],
    penalised: npt.NDArray[np.float32],
    token: int,
    u: float | None,
    named: Callable[[int], str],
) -> JsonObject:
    """The sampler's evidence, from the sampler's own distribution."""
    temperature = params.temperature or 1.0
    scaled = penalised.astype(np.float64) / temperature
    probability = _softmax(scaled)
    order = np.argsort(-penalised, kind="stable")
    final, bucket = np.zeros(logits.size), {}
    kept = np.array([token])
    if left is not None:
        kept = np.arange(logits.size) if left.ids is None else left.ids
        final[kept] = left.probabilities
        edges = np.concatenate(([0.0], np.cumsum(left.probabilities)))
        bucket = {int(i): [float(edges[n]), float(edges[n + 1])] for n, i in enumerate(kept)}
    else:
        final[token] = 1.0
    after_k = order[: params.top_k or logits.size]
    weights = np.exp(scaled[after_k] - scaled.max())
    after_p = after_k[: int(np.searchsorted(np.cumsum(weights), params.top_p * weights.sum())) + 1]
    listed = order[:64].tolist()
    if token not in listed:
        listed = [*listed[:-1], token]
    best = scaled.max()

    def cut(index: int) -> str | None:
        if u is None or index in bucket:
            return None
        return "top_k" if index not in after_k else "min_p" if index in after_p else "top_p"

    return {
        "order": [
            "repetition_penalty",
            "frequency_presence",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "draw",
        ],
        "candidates": [
            {
                "id": int(i),
                "text": named(int(i)),
                "logit": float(logits[i]),
                "penalised": float(penalised[i]),
                "scaled": float(scaled[i]),
                "probability": float(probability[i]),
                "cut": cut(int(i)),
                "final": float(final[i]),
                "bucket": bucket.get(int(i)),
            }
            for i in listed
        ],
        "rest": {"count": logits.size - len(listed), "probability": float(1 - probability[listed].sum())},
        "kept": len(kept),
        "greedy": u is None,
        "uniform": u,
        "chosen": token,
        "normalizer": {
            "max": float(best),
            "log_sum_exp": float(best + math.log(np.exp(scaled - best).sum())),
        },
    }


def _lens(
    generator: np.random.Generator, ids: dict[str, int], chosen: str, leads: int, layers: int
) -> JsonObject:
    top, ranks, probabilities = [], [], []
    for layer in range(layers + 1):
        sure = (
            0.08 + 0.5 * layer / layers
            if layer < leads
            else min(0.95, 0.35 + 0.6 * (layer - leads) / (layers - leads + 1))
        )
        others = generator.permutation([text for text in ids if text != chosen])[:5].tolist()
        names = (
            [chosen, *others[:4]]
            if layer >= leads
            else [others[0], *([chosen] if layer > leads - 3 else others[4:]), *others[1:4]]
        )
        shares = sure * 0.45 ** np.arange(5)
        top.append(
            [
                {"id": ids[text], "text": text, "probability": round(float(p), 5)}
                for text, p in zip(names, shares, strict=True)
            ]
        )
        ranks.append(0 if layer >= leads else 1 if layer > leads - 3 else int(40 * (leads - layer)))
        probabilities.append(
            float(shares[0] if layer >= leads else shares[1] if layer > leads - 3 else 0.001)
        )
    return {"top": top, "rank": ranks, "probability": probabilities, "first_leads": leads}


def _kv(positions: int, layers: int) -> JsonObject:
    each = layers * KV_HEADS * HEAD_DIM * 2 * 2
    pages = -(-positions // PAGE)
    return {
        "positions": positions,
        "pages": list(range(4, 4 + pages)),
        "shared": 0,
        "evicted": 0,
        "skipped": 0,
        "bytes_used": positions * each,
        "bytes_allocated": pages * PAGE * each,
        "bytes_predicted": pages * PAGE * each,
    }


def _time(generator: np.random.Generator, positions: int, layers: int) -> JsonObject:
    by_stage = (
        _TIME_SHARES * (1 + 0.1 * generator.random((layers, len(TIMED)))) * (1 + positions / 900) * 0.00011
    )
    head, embedding, sampling = 0.00085, 0.000004, 0.00012
    return {
        "rows": 1,
        "total": float(by_stage.sum() + head + embedding),
        "embedding": embedding,
        "head": head,
        "sampling": sampling,
        "layers": [[round(float(s), 9) for s in row] for row in by_stage],
    }


def _softmax(logits: Floats) -> Floats:
    weights: Floats = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights
