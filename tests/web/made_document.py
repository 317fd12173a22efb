"""Makes a trace document by the schema, deterministic, for tests of the page.

Shapes are those of SmolLM2-135M. Logits, attention and times are drawn from a seeded generator and shaped
like real ones (a first-token sink, a lens that decides late); the sampler's chain is computed by
`boli.engine.sampling` itself from those logits.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from boli.engine.params import SamplingParams
from boli.engine.penalties import Penalties
from boli.engine.random import uniform
from boli.engine.sampling import Distribution, Sampler

JsonObject = dict[str, Any]
Floats = npt.NDArray[np.float64]

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 576, 1536, 9, 3, 64, 49152
PAGE: Final = 32
HOSTILE = ["<img src=x onerror=\"document.title='owned'\">", "\u202eevil\u2066", "\x1b[31mred\x1b[0m"]

_SPECIAL = {"<|im_start|>", "<|im_end|>"}
_PROMPT_PIECES = [
    "<|im_start|>", "user", "\n", "Why", " is", " the", " sky", " blue", "?", "<|im_end|>", "\n",
    "<|im_start|>", "assistant", "\n",
]  # fmt: skip
_ANSWER_PIECES = [
    "The", " sky", " looks", " blue", " because", " air", " scatters", " short", " waves", " of", " light",
    " far", " more", " than", " long", " ones", ",", " so", " blue", " comes", " from", " everywhere", ".", "\n",
    "天", "空", " is", " what", " is", " left", ".", " At", " dusk", " the", " way", " is", " longer",
]  # fmt: skip
_OTHERS = [
    " a", " it", " we", " which", " Ray", "leigh", " atmosphere", " Sun", " red", " green", " appears", " seems",
    " color", " and", " but", " when", " molecules", " small", " wavelength", " most", " this", " that", "!",
    " very", " our", " eyes", " see", " night", " day", " clouds", " white", " sea", "’s", " not", " only",
]  # fmt: skip

_STAGES: Sequence[tuple[str, str, str, str, list[str], str]] = (
    ("tokenize", "Text to tokens", "文本切分", "ids = BPE(text)", [], "[positions]"),
    ("template", "Chat template", "对话模板", "text = template(messages)", [], "text"),
    ("embedding", "Embedding look-up", "查词嵌入", "h = E[id]", ["embedding"], "[hidden_size]"),
    ("positions", "Positions", "位置", "p = 0, 1, 2, …", [], "[positions]"),
    ("attention_norm", "Norm", "归一化", "x̂ = x / rms(x) · w", ["attention_norm"], "[hidden_size]"),
    ("qkv", "Q, K, V", "Q、K、V 投影", "q = W_q x̂   k = W_k x̂   v = W_v x̂", ["q", "k", "v"], "[heads, head_dim]"),
    ("rope", "RoPE", "旋转位置编码", "q′ = R(p) q   k′ = R(p) k", [], "[heads, head_dim]"),
    ("scores", "Scores", "注意力分数", "s = q′ · k′ / √d", [], "[heads, positions]"),
    ("mask", "Mask", "掩码", "s_j = −∞ if j > i", [], "[heads, positions]"),
    ("softmax", "Softmax", "Softmax", "a = exp(s − max s) / Σ", [], "[heads, positions]"),
    ("weighted_sum", "Weighted sum", "加权求和", "z = Σ_j a_j v_j", [], "[heads, head_dim]"),
    ("output_projection", "Output projection", "输出投影", "o = W_o z", ["o"], "[hidden_size]"),
    ("attention_residual", "Residual", "残差相加", "h ← h + o", [], "[hidden_size]"),
    ("mlp_norm", "Norm", "归一化", "x̂ = x / rms(x) · w", ["mlp_norm"], "[hidden_size]"),
    ("gate_up", "Gate and up", "门控与升维", "g = W_gate x̂   u = W_up x̂", ["gate", "up"], "[intermediate_size]"),
    ("activation", "Activation", "激活", "m = silu(g) · u", [], "[intermediate_size]"),
    ("down", "Down", "降维", "d = W_down m", ["down"], "[hidden_size]"),
    ("mlp_residual", "Residual", "残差相加", "h ← h + d", [], "[hidden_size]"),
    ("final_norm", "Final norm", "末层归一化", "x̂ = x / rms(x) · w", ["final_norm"], "[hidden_size]"),
    ("head", "Head", "输出头", "logits = E x̂", ["head"], "[vocab_size]"),
    ("penalties", "Penalties", "惩罚项", "l ← l / r  (l > 0)", [], "[vocab_size]"),
    ("temperature", "Temperature", "温度", "l ← l / T", [], "[vocab_size]"),
    ("filters", "Filters", "筛选", "top-k, top-p, min-p", [], "[kept]"),
    ("draw", "Draw", "抽样", "smallest j with Σ_{i≤j} p_i > u", [], "id"),
)  # fmt: skip
TIMED: Final = [
    "attention_norm+qkv",
    "rope+cache",
    "attention",
    "output_projection",
    "mlp_norm+gate_up",
    "down",
]
_TIME_SHARES: Final = np.array([0.20, 0.02, 0.07, 0.12, 0.39, 0.20])


def packed(values: npt.NDArray[Any], dtype: str) -> JsonObject:
    """An array as the schema writes it."""
    document: JsonObject = {"dtype": dtype, "shape": list(values.shape)}
    if dtype == "u1":
        document["scale"] = 1 / 255
        values = np.clip(np.rint(values * 255), 0, 255)
    stored = values.astype({"u1": "u1", "f2": "<f2", "f4": "<f4", "i4": "<i4"}[dtype])
    return {**document, "data": base64.b64encode(stored.tobytes()).decode()}


def make_document(
    *,
    layers: int = 30,
    generated: int = 37,
    hostile: bool = False,
    seed: int = 7,
    temperature: float = 0.8,
    prompt_repeats: int = 1,
) -> JsonObject:
    """A whole document in `rows` detail.

    Args:
        layers: Of the model.
        generated: How many tokens the answer has.
        hostile: Whether some tokens try to be HTML, terminal codes or right-to-left marks.
        seed: Of everything.
        temperature: Of the sampler; 0 is greedy.
        prompt_repeats: How often the question is repeated, for long prompts.
    """
    generator = np.random.default_rng(seed)
    prompt = _PROMPT_PIECES[:3] + _PROMPT_PIECES[3:9] * prompt_repeats + _PROMPT_PIECES[9:]
    vocabulary = list(dict.fromkeys([*HOSTILE, *_PROMPT_PIECES, *_ANSWER_PIECES, *_OTHERS]))
    answer = list(itertools.islice(itertools.cycle(_ANSWER_PIECES), generated))
    if hostile:
        answer[1 : 1 + len(HOSTILE)] = HOSTILE
    params = (
        SamplingParams(
            temperature=temperature, top_k=40, top_p=0.95, min_p=0.02, repetition_penalty=1.1, seed=seed
        )
        if temperature
        else SamplingParams(seed=seed)
    )
    ids = [vocabulary.index(piece) for piece in prompt]
    sampler, penalties = Sampler(params, ids), Penalties(params, ids)
    decisions = []
    for number, piece in enumerate(answer):
        wanted = vocabulary.index(piece)
        decision = _decision(generator, sampler, penalties, vocabulary, wanted, number, len(prompt), layers)
        decisions.append(decision)
        ids.append(decision["token"])
    tokens, text = _tokens(
        [vocabulary[i] if i < len(vocabulary) else f" w{i}" for i in ids], ids, len(prompt)
    )
    weights = _weights(layers)
    layer_bytes = sum(w["bytes"] for w in weights if w["layer"] == 0)
    read = layers * layer_bytes + weights[0]["bytes"]
    return {
        "schema": "boli-trace/1", "boli": "0.1.0", "created": "2026-11-22T12:00:00Z", "detail": "rows",
        "price": {"bytes_predicted": 2_100_000, "bytes": 2_000_000, "seconds_predicted": 1.4, "seconds": 1.3},
        "proof": {
            "compared": generated, "largest_logit_difference": 0.0, "largest_logprob_difference": 0.0, "recorded": True,
        },
        "model": {
            "name": "SmolLM2-135M-Instruct", "family": "llama", "source": "smollm2", "format": "Q4_1",
            "hash": "9f2c" * 16, "parameters": 134_515_008, "bytes": sum(w["bytes"] for w in weights if not w["tied_to"]),
            "num_hidden_layers": layers, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
            "vocab_size": VOCABULARY, "tied": True, "activation": "silu", "gated": True, "norm": "rms",
            "qk_norm": False, "post_norms": False, "positions": "rope", "windows": [None] * layers,
            "kv_cache_type": "bf16", "page_size": PAGE, "context": 8192,
        },
        "machine": {"cpu": "a test", "threads": 2, "read_bytes_per_s": 21.0e9},
        "run": {
            "seed": seed,
            "sampling": {
                "temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p, "min_p": params.min_p,
                "repetition_penalty": params.repetition_penalty, "max_tokens": generated,
            },
            "prompt_length": len(prompt), "generated": generated, "finish_reason": "length", "reused_tokens": 0,
            "timings": {},
        },
        "text": {
            "kind": "chat", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "template": None,
            "prompt": "".join(prompt), "answer": text,
        },
        "tokens": tokens, "weights": weights,
        "stages": [
            {
                "key": key, "title": {"en": en, "zh": zh}, "equation": equation, "source": f"cpu/stages.py:{40 + 9 * n} {key}",
                "roles": roles, "values": [key], "shape": shape,
            }
            for n, (key, en, zh, equation, roles, shape) in enumerate(_STAGES)
        ],
        "layers": [_layer(index, layer_bytes, weights) for index in range(layers)],
        "decisions": decisions, "timed_stages": TIMED,
        "prompt_steps": [{"rows": len(prompt), "seconds": 0.021, "first_position": 0}],
        "prompt_lens": _prompt_lens(generator, vocabulary, len(prompt), layers),
        "roofline": {
            "read_bytes_per_s": 21.0e9, "bytes_per_token": read, "predicted_seconds": read / 21.0e9,
            "measured_seconds": float(np.mean([d["time"]["total"] for d in decisions])), "prefill": None,
        },
    }  # fmt: skip


def _decision(
    generator: np.random.Generator, sampler: Sampler, penalties: Penalties, vocabulary: list[str], wanted: int, number: int, prompt: int, layers: int
) -> JsonObject:  # fmt: skip
    """One token, chosen by the real sampler from drawn logits among which `wanted` is likely."""
    params = sampler.params
    logits = generator.normal(-2.0, 1.5, VOCABULARY).astype(np.float32)
    logits[: len(vocabulary)] = generator.normal(9.0, 1.6, len(vocabulary))
    logits[wanted] = 13.0 + 4.0 * generator.random()
    penalised = penalties.apply(logits)
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
        "at": at, "token": token, "text": named(token), "logit": float(logits[token]),
        "logprob": math.log(probabilities[token]), "rank": int((logits > logits[token]).sum()),
        "entropy": float(-(probabilities * np.log(probabilities + 1e-300)).sum()),
        "recorded": {"logit": float(logits[token]), "logprob": None},
        "top": [
            {"id": int(i), "text": named(int(i)), "logit": float(logits[i]), "probability": float(probabilities[i])}
            for i in order[:32]
        ],
        "lens": _lens(generator, [named(int(i)) for i in order[:40]], named(token), leads, layers),
        "norms": {
            "residual": (4 + np.cumsum(generator.gamma(2, 1.5, layers + 1))).round(3).tolist(),
            "attention_branch": generator.gamma(2, 0.8, layers).round(3).tolist(),
            "mlp_branch": generator.gamma(2, 1.4, layers).round(3).tolist(),
        },
        "attention": {"first_position": 0, "weights": packed(attention, "u1")},
        "sampler": _chain(params, left, logits, penalised, token, None if greedy else u, named),
        "kv": _kv(positions, layers), "time": _time(generator, positions, layers),
    }  # fmt: skip


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
    after_k = set(order[: params.top_k or logits.size].tolist())
    listed = order[:64].tolist()
    if token not in listed:
        listed = [*listed[:-1], token]
    best = scaled.max()

    def cut(index: int) -> str | None:
        if u is None or index in bucket:
            return None
        if index not in after_k:
            return "top_k"
        return "min_p" if math.exp(scaled[index] - best) < params.min_p and _within_p(index) else "top_p"

    def _within_p(index: int) -> bool:
        weights = np.exp(scaled[order[: params.top_k or logits.size]] - best)
        count = int(np.searchsorted(np.cumsum(weights), params.top_p * weights.sum())) + 1
        return index in order[:count]

    return {
        "order": ["repetition_penalty", "frequency_presence", "temperature", "top_k", "top_p", "min_p", "draw"],
        "candidates": [
            {
                "id": int(i), "text": named(int(i)), "logit": float(logits[i]), "penalised": float(penalised[i]),
                "scaled": float(scaled[i]), "probability": float(probability[i]), "cut": cut(int(i)),
                "final": float(final[i]), "bucket": bucket.get(int(i)),
            }
            for i in listed
        ],
        "rest": {"count": logits.size - len(listed), "probability": float(1 - probability[listed].sum())},
        "kept": len(kept), "greedy": u is None, "uniform": u, "chosen": token,
        "normalizer": {"max": float(best), "log_sum_exp": float(best + math.log(np.exp(scaled - best).sum()))},
    }  # fmt: skip


def _lens(
    generator: np.random.Generator, likely: list[str], chosen: str, leads: int, layers: int
) -> JsonObject:
    top, ranks, probabilities = [], [], []
    for layer in range(layers + 1):
        sure = (
            0.08 + 0.5 * layer / layers
            if layer < leads
            else min(0.95, 0.35 + 0.6 * (layer - leads) / (layers - leads + 1))
        )
        others = generator.permutation([text for text in likely if text != chosen])[:5].tolist()
        names = (
            [chosen, *others[:4]]
            if layer >= leads
            else [others[0], *([chosen] if layer > leads - 3 else others[4:]), *others[1:4]]
        )
        shares = sure * 0.45 ** np.arange(5)
        top.append(
            [
                {"id": n, "text": text, "probability": round(float(p), 5)}
                for n, (text, p) in enumerate(zip(names, shares, strict=True))
            ]
        )
        ranks.append(1 if layer >= leads else 2 if layer > leads - 3 else int(40 * (leads - layer)))
        probabilities.append(
            float(shares[0] if layer >= leads else shares[1] if layer > leads - 3 else 0.001)
        )
    return {"top": top, "rank": ranks, "probability": probabilities, "first_leads": leads}


def _prompt_lens(
    generator: np.random.Generator, vocabulary: list[str], length: int, layers: int
) -> JsonObject:
    words = [text for text in vocabulary if text not in HOSTILE]
    return {
        "text": [[str(word) for word in generator.choice(words, layers + 1)] for _ in range(length)],
        "probability": np.sort(generator.beta(1, 6, (length, layers + 1)), axis=1).round(4).tolist(),
    }


def _kv(positions: int, layers: int) -> JsonObject:
    each = layers * KV_HEADS * HEAD_DIM * 2 * 2
    pages = -(-positions // PAGE)
    return {
        "positions": positions, "pages": list(range(4, 4 + pages)), "shared": 0, "evicted": 0,
        "bytes_used": positions * each, "bytes_allocated": pages * PAGE * each, "bytes_predicted": pages * PAGE * each,
    }  # fmt: skip


def _time(generator: np.random.Generator, positions: int, layers: int) -> JsonObject:
    by_stage = (
        _TIME_SHARES * (1 + 0.1 * generator.random((layers, len(TIMED)))) * (1 + positions / 900) * 0.00011
    )
    head, embedding, sampling = 0.00085, 0.000004, 0.00012
    return {
        "total": float(by_stage.sum() + head + embedding + sampling), "embedding": embedding, "head": head,
        "sampling": sampling, "layers": [[round(float(s), 9) for s in row] for row in by_stage],
    }  # fmt: skip


def _weights(layers: int) -> list[JsonObject]:
    kv = KV_HEADS * HEAD_DIM
    each = [
        ("attention_norm", [HIDDEN]), ("q", [HIDDEN, HIDDEN]), ("k", [kv, HIDDEN]), ("v", [kv, HIDDEN]),
        ("o", [HIDDEN, HIDDEN]), ("mlp_norm", [HIDDEN]), ("gate", [INTERMEDIATE, HIDDEN]),
        ("up", [INTERMEDIATE, HIDDEN]), ("down", [HIDDEN, INTERMEDIATE]),
    ]  # fmt: skip

    def weight(
        name: str, role: str, layer: int | None, shape: list[int], tied: str | None = None
    ) -> JsonObject:
        count = math.prod(shape)
        kind = "F32" if len(shape) == 1 else "Q8_0" if role in ("embedding", "head") else "Q4_1"
        size = {"F32": count * 4, "Q8_0": count * 34 // 32, "Q4_1": count * 20 // 32}[kind]
        return {
            "name": name, "role": role, "layer": layer, "shape": shape, "parameters": count, "type": kind,
            "bytes": size, "tied_to": tied,
        }  # fmt: skip

    rows = [weight("embedding", "embedding", None, [VOCABULARY, HIDDEN])]
    rows += [
        weight(f"layers.{layer}.{role}", role, layer, shape)
        for layer in range(layers)
        for role, shape in each
    ]
    rows.append(weight("final_norm", "final_norm", None, [HIDDEN]))
    return [*rows, weight("head", "head", None, [VOCABULARY, HIDDEN], "embedding")]


def _layer(index: int, size: int, weights: list[JsonObject]) -> JsonObject:
    own = {w["role"]: w for w in weights if w["layer"] == index}
    return {
        "index": index, "window": None, "bytes": size,
        "stages": {
            key: {"bytes": sum(own[r]["bytes"] for r in roles), "flops": sum(2 * own[r]["parameters"] for r in roles)}
            for key, _, _, _, roles, _ in _STAGES
            if all(r in own for r in roles) and key not in ("tokenize", "template", "positions", "embedding")
        },
    }  # fmt: skip


def _tokens(pieces: list[str], ids: list[int], prompt: int) -> tuple[list[JsonObject], str]:
    tokens, start = [], 0
    for position, (piece, token) in enumerate(zip(pieces, ids, strict=True)):
        message = 0 if 3 <= position < prompt - 5 else None
        tokens.append({
            "id": token, "text": piece, "piece": piece.replace(" ", "Ġ").replace("\n", "Ċ"),
            "span": [start, start + len(piece)], "message": message, "special": piece in _SPECIAL,
            "generated": position >= prompt, "position": position,
        })  # fmt: skip
        start += len(piece)
    return tokens, "".join(pieces[prompt:])


def _softmax(logits: Floats) -> Floats:
    weights: Floats = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights
