"""Makes a trace document by the schema, deterministic, for tests of the page.

Shapes are those of SmolLM2-135M. Logits, attention and times are drawn from a seeded generator and shaped
like real ones (a first-token sink, a lens that decides late); the sampler's chain is computed by
`boli.engine.sampling` itself from those logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from boli.engine.params import SamplingParams
from boli.engine.penalties import Penalties
from boli.engine.sampling import Sampler
from boli.trace.files import sealed
from boli.trace.stages import LAYER_STAGES, STAGES
from web.made_decision import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    PAGE,
    TIMED,
    VOCABULARY,
    Held,
    JsonObject,
    make_decision,
    packed,
)

HOSTILE = ["<img src=x onerror=\"document.title='owned'\">", "\u202eevil\u2066", "\x1b[31mred\x1b[0m"]
_SPECIAL = {"<|im_start|>", "<|im_end|>"}
_PROMPT_PIECES = [
    "<|im_start|>", "user", "\n", "Why", " is", " the", " sky", " blue", "?", "<|im_end|>", "\n",
    "<|im_start|>", "assistant", "\n",
]  # fmt: skip
_ANSWER_PIECES = [
    "The", " sky", " looks", " blue", " because", " air", " scatters", " short", " waves", " of",
    " light", " far", " more", " than", " long", " ones", ",", " so", " blue", " comes", " from",
    " everywhere", ".", "\n", "天", "空", " is", " what", " is", " left", ".", " At", " dusk", " the",
    " way", " is", " longer",
]  # fmt: skip
_OTHERS = [
    " a", " it", " we", " which", " Ray", "leigh", " atmosphere", " Sun", " red", " green", " appears",
    " seems", " color", " and", " but", " when", " molecules", " small", " wavelength", " most",
    " this", " that", "!", " very", " our", " eyes", " see", " night", " day", " clouds", " white",
    " sea", "’s", " not", " only",
]  # fmt: skip


def make_document(
    *,
    layers: int = 30,
    generated: int = 37,
    hostile: bool = False,
    seed: int = 7,
    temperature: float = 0.8,
    prompt_repeats: int = 1,
    grammar: bool = False,
) -> JsonObject:
    """A whole document in `rows` detail.

    Args:
        layers: Of the model.
        generated: How many tokens the answer has.
        hostile: Whether some tokens try to be HTML, terminal codes or right-to-left marks.
        seed: Of everything.
        temperature: Of the sampler; 0 is greedy.
        prompt_repeats: How often the question is repeated, for long prompts.
        grammar: Whether the answer is held to one.
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
    held = Held() if grammar else None
    sampler, penalties = Sampler(params, ids, held), Penalties(params, ids)
    decisions = []
    for number, piece in enumerate(answer):
        wanted = vocabulary.index(piece)
        decision = make_decision(
            generator, sampler, penalties, vocabulary, wanted, number, len(prompt), layers, ids, held
        )
        decisions.append(decision)
        ids.append(decision["token"])
    tokens, text = _tokens(
        [vocabulary[i] if i < len(vocabulary) else f" w{i}" for i in ids], ids, len(prompt)
    )
    weights = _weights(layers)
    layer_bytes = sum(w["bytes"] for w in weights if w["layer"] == 0)
    read = layers * layer_bytes + weights[0]["bytes"]
    return sealed(
        {
            "schema": "boli-trace/1",
            "boli": "0.1.0",
            "created": "2026-11-22T12:00:00Z",
            "detail": "rows",
            "price": {
                "bytes_predicted": 2_100_000,
                "bytes": 2_000_000,
                "seconds_predicted": 1.4,
                "seconds": 1.3,
                "offers": [
                    {"detail": "summary", "bytes": 0, "seconds": 0.9},
                    {"detail": "rows", "bytes": 2_100_000, "seconds": 1.4},
                    {"detail": "full", "bytes": 300_000_000, "seconds": 1.5},
                ],
            },
            "proof": {
                "compared": generated,
                "largest_logit_difference": 0.0,
                "largest_logprob_difference": 0.0,
                "recorded": True,
                "same_model": True,
                "differences": [],
                "lens_difference": 0.0,
                "sampler_reproduced": generated,
            },
            "model": {
                "name": "SmolLM2-135M-Instruct",
                "family": "llama",
                "source": "smollm2",
                "format": "gguf",
                "weights": "stored",
                "hash": "9f2c" * 16,
                "parameters": 134_515_008,
                "bytes": sum(w["bytes"] for w in weights if not w["tied_to"]),
                "num_hidden_layers": layers,
                "hidden_size": HIDDEN,
                "intermediate_size": INTERMEDIATE,
                "num_attention_heads": HEADS,
                "num_key_value_heads": KV_HEADS,
                "head_dim": HEAD_DIM,
                "vocab_size": VOCABULARY,
                "tied": True,
                "activation": "silu",
                "gated": True,
                "norm": "rms",
                "qk_norm": False,
                "post_norms": False,
                "positions": "rope",
                "windows": [None] * layers,
                "kv_cache_type": "bf16",
                "page_size": PAGE,
                "context": 8192,
            },
            "machine": {"cpu": "a test", "threads": 2, "read_bytes_per_s": 21.0e9},
            "run": {
                "created": "2026-11-22T11:59:00Z",
                "drafted_tokens": 0,
                "accepted_tokens": 0,
                "preemptions": 0,
                "seed": seed,
                "sampling": {
                    "temperature": params.temperature,
                    "top_k": params.top_k,
                    "top_p": params.top_p,
                    "min_p": params.min_p,
                    "repetition_penalty": params.repetition_penalty,
                    "max_tokens": generated,
                },
                "prompt_length": len(prompt),
                "generated": generated,
                "finish_reason": "length",
                "reused_tokens": 0,
                "timings": {},
            },
            "text": {
                "kind": "chat",
                "messages": [{"role": "user", "content": "Why is the sky blue?"}],
                "template": None,
                "prompt": "".join(prompt),
                "answer": text,
            },
            "tokens": tokens,
            "weights": weights,
            "stages": [
                {
                    "key": stage.key,
                    "title": {"en": stage.en, "zh": stage.zh},
                    "equation": f"y = {stage.key}(x)",
                    "source": f"cpu/stages.py:{40 + 9 * number} {stage.key}",
                    "roles": list(stage.roles),
                    "values": list(stage.values),
                    "shape": stage.shape,
                }
                for number, stage in enumerate(STAGES)
            ],
            "layers": [_layer(index, layer_bytes, weights) for index in range(layers)],
            "decisions": decisions,
            "timed_stages": TIMED,
            "prompt_steps": [{"rows": len(prompt), "seconds": 0.021, "first_position": 0}],
            "prompt_values": None,
            "prompt_attention": None,
            "prompt_lens": _prompt_lens(generator, vocabulary, len(prompt), layers),
            "roofline": {
                "read_bytes_per_s": 21.0e9,
                "bytes_per_token": read,
                "predicted_seconds": read / 21.0e9,
                "measured_seconds": float(np.mean([d["time"]["total"] for d in decisions])),
                "operations_per_s": 4.0e11,
                "operations_in": "int8",
                "bytes_with_cache": read,
                "flops_per_token": 272_000_000,
                "run_seconds": None,
                "prefill": {
                    "tokens": len(prompt),
                    "bytes": read,
                    "flops": 272_000_000 * len(prompt),
                    "predicted_seconds": 0.016,
                    "measured_seconds": 0.021,
                },
            },
        }
    )


def _prompt_lens(
    generator: np.random.Generator, vocabulary: list[str], length: int, layers: int
) -> JsonObject:
    words = [text for text in vocabulary if text not in HOSTILE]
    return {
        "text": [[str(word) for word in generator.choice(words, layers + 1)] for _ in range(length)],
        "probability": packed(np.sort(generator.beta(1, 6, (length, layers + 1)), axis=1), "f2"),
    }


def _weights(layers: int) -> list[JsonObject]:
    kv = KV_HEADS * HEAD_DIM
    each = [
        ("attention_norm", [HIDDEN]),
        ("q", [HIDDEN, HIDDEN]),
        ("k", [kv, HIDDEN]),
        ("v", [kv, HIDDEN]),
        ("o", [HIDDEN, HIDDEN]),
        ("mlp_norm", [HIDDEN]),
        ("gate", [INTERMEDIATE, HIDDEN]),
        ("up", [INTERMEDIATE, HIDDEN]),
        ("down", [HIDDEN, INTERMEDIATE]),
    ]

    def weight(
        name: str, role: str, layer: int | None, shape: list[int], tied: str | None = None
    ) -> JsonObject:
        count = math.prod(shape)
        kind = "F32" if len(shape) == 1 else "Q8_0" if role in ("embedding", "head") else "Q4_1"
        size = {"F32": count * 4, "Q8_0": count * 34 // 32, "Q4_1": count * 20 // 32}[kind]
        return {
            "name": name,
            "role": role,
            "layer": layer,
            "shape": shape,
            "parameters": count,
            "type": kind,
            "bytes": size,
            "tied_to": tied,
        }

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
        "index": index,
        "window": None,
        "bytes": size,
        "stages": {stage.key: _work(stage.roles, own) for stage in STAGES if stage.key in LAYER_STAGES},
    }


def _work(roles: Sequence[str], own: dict[str, JsonObject]) -> JsonObject:
    read = [own[role] for role in roles if role in own]
    return {
        "bytes": sum(weight["bytes"] for weight in read),
        "flops": sum(2 * weight["parameters"] for weight in read),
    }


def _tokens(pieces: list[str], ids: list[int], prompt: int) -> tuple[list[JsonObject], str]:
    tokens, start = [], 0
    for position, (piece, token) in enumerate(zip(pieces, ids, strict=True)):
        message = 0 if 3 <= position < prompt - 5 else None
        tokens.append(
            {
                "id": token,
                "text": piece,
                "piece": piece.replace(" ", "Ġ").replace("\n", "Ċ"),
                "span": [start, start + len(piece)],
                "message": message,
                "special": piece in _SPECIAL,
                "generated": position >= prompt,
                "position": position,
            }
        )
        start += len(piece)
    return tokens, "".join(pieces[prompt:])
