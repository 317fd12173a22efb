"""Trace documents made up by hand: every part that a view reads, with the texts that views must survive.

The numbers are random but hold together: probabilities are a softmax of the logits, rows of attention
sum to 1, candidates are cut as the sampler cuts. What real traces look like is tested with real ones.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What a model may say to break a terminal or a page.
HOSTILE = "\x1b[31mred\x1b[0m\x07<script>alert(1)</script>&\u202eabc\u2066\u200b\u0301\U000e0041"

PROMPT = ("<bos>", "我", "爱", "中华", "人民", "共和")
ANSWER = ("国", "。", " I", " love", " <b>", "\n")
TIMED = [
    "attention_norm+qkv",
    "rope+cache",
    "attention",
    "output_projection",
    "mlp_norm+gate_up+activation",
    "down",
]
STAGES: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("tokenize", "Text to tokens", "文本变词元", "ids = tokenizer(text)", ()),
    ("template", "Chat template", "对话模板", "text = template(messages)", ()),
    ("embedding", "Embedding", "词嵌入", "x = E[id] · √d", ("embedding",)),
    ("positions", "Positions", "位置", "p = 0, 1, 2, …", ()),
    ("attention_norm", "Norm", "归一化", "x̂ = x / rms(x) · w", ("attention_norm",)),
    ("qkv", "Q, K, V", "Q、K、V", "q = W_q x̂, k = W_k x̂, v = W_v x̂", ("q", "k", "v")),
    ("rope", "RoPE", "旋转位置编码", "q, k = R(p) q, R(p) k", ()),
    ("scores", "Scores", "打分", "s = q·k / √d", ()),
    ("mask", "Mask", "掩码", "s[j > i] = −∞", ()),
    ("softmax", "Softmax", "Softmax", "a = exp(s) / Σ exp(s)", ()),
    ("weighted_sum", "Weighted sum", "加权求和", "h = Σ a v", ()),
    ("output_projection", "Output projection", "输出投影", "o = W_o h", ("o",)),
    ("attention_residual", "Residual", "残差", "x = x + o", ()),
    ("mlp_norm", "Norm", "归一化", "x̂ = x / rms(x) · w", ("mlp_norm",)),
    ("gate_up", "Gate and up", "门与升维", "g = W_gate x̂, u = W_up x̂", ("gate", "up")),
    ("activation", "Activation", "激活", "m = silu(g) · u", ()),
    ("down", "Down", "降维", "d = W_down m", ("down",)),
    ("mlp_residual", "Residual", "残差", "x = x + d", ()),
    ("final_norm", "Final norm", "末层归一化", "x̂ = x / rms(x) · w", ("final_norm",)),
    ("head", "Head", "输出层", "logits = E x̂", ("head",)),
    ("penalties", "Penalties", "惩罚", "l = l / r", ()),
    ("temperature", "Temperature", "温度", "l = l / T", ()),
    ("filters", "Filters", "过滤", "top-k, top-p, min-p", ()),
    ("draw", "Draw", "抽取", "u → bucket", ()),
)
SIZES: Mapping[str, tuple[int, ...]] = {
    "embedding": (512, 64), "attention_norm": (64,), "q": (64, 64), "k": (16, 64), "v": (16, 64),
    "o": (64, 64), "mlp_norm": (64,), "gate": (160, 64), "up": (160, 64), "down": (64, 160),
    "final_norm": (64,),
}  # fmt: skip


def packed(values: Any, kind: str = "f4") -> dict[str, Any]:
    """An array as documents hold it."""
    numbers = np.asarray(values)
    scaled = np.round(numbers * 255) if kind == "u1" else numbers
    data = np.ascontiguousarray(scaled, f"<{kind}").tobytes()
    array = {"dtype": kind, "shape": list(numbers.shape), "data": base64.b64encode(data).decode()}
    return array | {"scale": 1 / 255} if kind == "u1" else array


def make(
    *,
    layers: int = 4,
    heads: int = 4,
    prompt: Sequence[str] = PROMPT,
    answer: Sequence[str] = ANSWER,
    detail: str = "rows",
    temperature: float = 0.8,
    chat: bool = False,
    windows: Sequence[int | None] | None = None,
    seed: int = 7,
) -> dict[str, Any]:
    """A trace of a run that never was.

    Args:
        layers: Of the model.
        heads: Of each layer; four times as many as there are keys and values.
        prompt: The texts of its tokens.
        answer: The texts of the generated tokens.
        detail: `summary`, `rows` or `full`.
        temperature: 0 for greedy.
        chat: Whether the prompt was one message.
        windows: Of each layer.
        seed: Of all numbers.
    """
    random = np.random.default_rng(seed)
    vocabulary = [*dict.fromkeys([*prompt, *answer])]
    vocabulary += [f"w{number}" for number in range(len(vocabulary), 512)]
    tokens, place = [], 0
    for position, text in enumerate([*prompt, *answer]):
        special = text.startswith("<") and text.endswith("s>")
        tokens.append(
            {
                "id": vocabulary.index(text), "text": text, "piece": text.replace(" ", "▁"),
                "span": [place, place + len(text)],
                "message": 0 if chat and 0 < position < len(prompt) else None,
                "special": special, "generated": position >= len(prompt), "position": position,
            }
        )  # fmt: skip
        place += len(text)
    windows = list(windows) if windows is not None else [None] * layers
    decisions = [
        _decision(random, vocabulary, tokens, at, layers, heads, detail, temperature, windows)
        for at in range(len(prompt) - 1, len(tokens) - 1)
    ]
    weights = _weights(layers)
    read = {
        key: sum(w["bytes"] for w in weights if w["layer"] == 0 and w["role"] in roles)
        for key, _, _, _, roles in STAGES
    }
    return {
        "schema": "boli-trace/1", "boli": "0.1.0", "created": "2026-11-22T12:00:00Z", "detail": detail,
        "price": {"bytes_predicted": 40_000, "bytes": 40_000, "seconds_predicted": 0.02, "seconds": 0.018},
        "proof": {
            "compared": len(answer), "largest_logit_difference": 0.0, "largest_logprob_difference": 0.0,
            "recorded": False, "same_model": True, "differences": [], "lens_difference": 0.0,
            "sampler_reproduced": len(answer),
        },
        "model": {
            "name": "tiny", "family": "llama", "source": "tiny.gguf", "format": "gguf", "hash": "0" * 64,
            "parameters": 100_000, "bytes": sum(w["bytes"] for w in weights), "num_hidden_layers": layers,
            "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 4), "head_dim": 16, "vocab_size": 512, "tied": True,
            "activation": "silu", "gated": True, "norm": "rms", "qk_norm": False, "post_norms": False,
            "positions": "rope", "windows": windows, "kv_cache_type": "bf16", "page_size": 32, "context": 256,
        },
        "machine": {"cpu": "A processor", "threads": 2, "read_bytes_per_s": 10e9},
        "run": {
            "seed": seed, "prompt_length": len(prompt), "generated": len(answer), "finish_reason": "length",
            "reused_tokens": 0,
            "sampling": {
                "max_tokens": len(answer), "temperature": temperature, "top_k": 20 if temperature else 0,
                "top_p": 0.9 if temperature else 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
                "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": seed, "stop": [], "logprobs": None,
                "ignore_eos": False,
            },
            "timings": {
                "load_s": 0.5, "prefill_s": 0.002, "decode_s": 0.006, "prefill_tokens_per_s": 3000.0,
                "decode_tokens_per_s": 800.0,
            },
        },
        "text": {
            "kind": "chat" if chat else "completion",
            "messages": [{"role": "user", "content": "".join(prompt[1:])}] if chat else None,
            "template": "{{ bos_token }}{{ messages[0].content }}" if chat else None,
            "prompt": "".join(prompt), "answer": "".join(answer),
        },
        "tokens": tokens,
        "weights": weights,
        "stages": [
            {
                "key": key, "title": {"en": english, "zh": chinese}, "equation": equation,
                "source": f"cpu/stages.py:{number} {key}", "roles": list(roles), "values": [],
                "shape": "[hidden_size]",
            }
            for number, (key, english, chinese, equation, roles) in enumerate(STAGES)
        ],
        "layers": [
            {
                "index": layer, "window": windows[layer],
                "bytes": sum(w["bytes"] for w in weights if w["layer"] == layer),
                "stages": {key: {"bytes": size, "flops": 2 * size} for key, size in read.items()},
            }
            for layer in range(layers)
        ],
        "timed_stages": TIMED,
        "decisions": decisions,
        "prompt_steps": [{"rows": len(prompt), "seconds": 0.002, "first_position": 0}],
        "roofline": {
            "read_bytes_per_s": 10e9, "operations_per_s": 200e9, "operations_in": "int8",
            "bytes_per_token": sum(w["bytes"] for w in weights), "bytes_with_cache": None,
            "flops_per_token": 2 * sum(w["parameters"] for w in weights),
            "predicted_seconds": 1e-5, "measured_seconds": 2e-5, "run_seconds": None,
            "prefill": {
                "tokens": len(prompt), "bytes": sum(w["bytes"] for w in weights),
                "flops": 2 * len(prompt) * sum(w["parameters"] for w in weights),
                "predicted_seconds": 3e-5, "measured_seconds": 0.002,
            },
        },
    }  # fmt: skip


LAYER_STAGES = frozenset(key for key, *_ in STAGES[4:18])


def _weights(layers: int) -> list[dict[str, Any]]:
    rows = []
    for role, shape in SIZES.items():
        inside = role not in {"embedding", "final_norm"}
        for layer in range(layers) if inside else (None,):
            size = int(np.prod(shape))
            rows.append(
                {
                    "name": role if layer is None else f"layers.{layer}.{role}.weight", "role": role,
                    "layer": layer, "shape": list(shape), "parameters": size,
                    "type": "F32" if len(shape) == 1 else "Q8_0",
                    "bytes": size * 4 if len(shape) == 1 else size // 32 * 34, "tied_to": None,
                }
            )  # fmt: skip
    head = {"name": "head", "role": "head", "layer": None, "shape": [512, 64], "parameters": 0}
    return [*rows, head | {"type": "Q8_0", "bytes": 0, "tied_to": "embedding"}]


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _decision(
    random: np.random.Generator,
    vocabulary: Sequence[str],
    tokens: Sequence[Mapping[str, Any]],
    at: int,
    layers: int,
    heads: int,
    detail: str,
    temperature: float,
    windows: Sequence[int | None],
) -> dict[str, Any]:
    chosen = int(tokens[at + 1]["id"])
    # The residual stream's logits, layer by layer: the chosen token rises to the top.
    noise = random.normal(0.0, 1.5, (layers, len(vocabulary)))
    rise = np.linspace(0.0, 1.0, layers) ** 2
    noise[:, chosen] += rise * 9.0
    noise[-1, chosen] = noise[-1].max() + 1.0
    noise = np.vstack([noise, noise[-1:]])  # behind the layers stands what the last one says
    lens = _softmax(noise)
    ranks = [int((row > row[chosen]).sum()) for row in noise]
    leads = next((n for n in range(layers) if not any(ranks[n:])), None)
    logits = noise[-1]
    order = np.argsort(-logits, kind="stable")
    probability = _softmax(logits)
    positions = at + 1
    attention = None
    if detail != "summary":
        scores = random.normal(0.0, 1.0, (layers, heads, positions))
        scores[..., 0] += 2.0
        distance = at - np.arange(positions)
        for layer, window in enumerate(windows):
            if window is not None:
                scores[layer, :, distance >= window] = -np.inf
        attention = {"first_position": 0, "weights": packed(_softmax(scores), "u1")}
    pages = -(-positions // 32)
    decision = {
        "at": at, "token": chosen, "text": vocabulary[chosen], "logit": float(logits[chosen]),
        "logprob": float(np.log(probability[chosen])), "rank": 0,
        "entropy": float(-(probability * np.log(probability)).sum()),
        "recorded": {"logit": float(logits[chosen]), "logprob": None},
        "top": [
            {
                "id": int(i), "text": vocabulary[i], "logit": float(logits[i]),
                "probability": float(probability[i]),
            }
            for i in order[:8]
        ],
        "lens": {
            "top": [
                [
                    {"id": int(i), "text": vocabulary[i], "probability": float(row[i])}
                    for i in np.argsort(-row, kind="stable")[:5]
                ]
                for row in lens
            ],
            "rank": ranks, "probability": [float(row[chosen]) for row in lens], "first_leads": leads,
        },
        "norms": {
            "residual": [float(2.0 * 1.3**n) for n in range(layers + 1)],
            "attention_branch": random.uniform(0.5, 3.0, layers).tolist(),
            "mlp_branch": random.uniform(0.5, 3.0, layers).tolist(),
        },
        "attention": attention,
        "sampler": _sampler(random, vocabulary, logits, chosen, temperature),
        "kv": {
            "positions": positions, "pages": list(range(3, 3 + pages)), "shared": 0, "evicted": 0,
            "skipped": 0,
            "bytes_used": positions * 512, "bytes_allocated": pages * 32 * 512,
            "bytes_predicted": pages * 32 * 512,
        },
        "time": {
            "total": 0.0012, "rows": 1, "embedding": 0.00001, "head": 0.0002, "sampling": 0.00005,
            "layers": random.uniform(1e-5, 5e-5, (layers, len(TIMED))).tolist(),
        },
    }  # fmt: skip
    if detail == "full":
        decision["values"] = {
            "embedding": packed(random.normal(size=64)),
            "q": packed(random.normal(size=(layers, 64)), "f2"),
            "residual": packed(random.normal(size=(layers, 64))),
        }
    return decision


def _sampler(
    random: np.random.Generator,
    vocabulary: Sequence[str],
    logits: NDArray[np.float64],
    chosen: int,
    temperature: float,
) -> dict[str, Any]:
    greedy = temperature == 0.0
    scaled = logits if greedy else logits / temperature
    probability = _softmax(scaled)
    order = np.argsort(-logits, kind="stable")
    kept = (
        1
        if greedy
        else min(
            20,
            int(np.searchsorted(np.cumsum(probability[order][:20] / probability[order][:20].sum()), 0.9)) + 1,
        )
    )
    final = np.zeros(len(order))
    final[:kept] = probability[order[:kept]] / probability[order[:kept]].sum()
    ends = np.cumsum(final)
    number = int(np.flatnonzero(order == chosen)[0])
    low, high = float(ends[number] - final[number]), float(ends[number])
    listed = 24
    return {
        "order": [
            "repetition_penalty", "frequency_presence", "temperature", "top_k", "top_p", "min_p", "draw",
        ],
        "candidates": [
            {
                "id": int(i), "text": vocabulary[i], "logit": float(logits[i]), "penalised": float(logits[i]),
                "scaled": float(scaled[i]), "probability": float(probability[i]),
                "cut": None if n < kept or greedy else "top_k" if n >= 20 else "top_p",
                "final": float(final[n]),
                "bucket": [float(ends[n] - final[n]), float(ends[n])] if n < kept and not greedy else None,
            }
            for n, i in enumerate(order[:listed])
        ],
        "rest": {"count": len(order) - listed, "probability": float(probability[order[listed:]].sum())},
        "kept": kept, "greedy": greedy, "uniform": None if greedy else float(random.uniform(low, high)),
        "chosen": chosen,
        "normalizer": {"max": float(logits.max()), "log_sum_exp": float(np.log(np.exp(logits).sum()))},
    }  # fmt: skip
