"""What a trace document must look like, so that a view can trust the one that it is given.

A description is a type, a tuple of types, a list of one description, or a dictionary by key. `Optional` parts
may be null, and `ARRAY` is a packed array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from boli.engine.params import SamplingParams
from boli.errors import CorruptFile, UsageError
from boli.trace.arrays import is_packed, unpacked


@dataclass(frozen=True, slots=True)
class Optional:
    """A part that may be null, or missing."""

    part: Any


class _Array:
    """A packed array."""


class _Values:
    """Packed arrays by name."""


ARRAY: Final = _Array()
VALUES: Final = _Values()
NUMBER: Final = (int, float)
_WITHOUT_LAYERS: Final = ("embedding", "final_norm")
_TOKEN: Final = {"id": int, "text": str}
_NUMBERS: Final = [NUMBER]

SHAPE: Final[Mapping[str, Any]] = {
    "schema": str, "boli": str, "created": str, "detail": str, "digest": str,
    "price": {
        "bytes_predicted": int, "bytes": int, "seconds_predicted": Optional(NUMBER), "seconds": NUMBER,
        "offers": Optional([{"detail": str, "bytes": int, "seconds": Optional(NUMBER)}]),
    },
    "proof": {
        "compared": int, "largest_logit_difference": NUMBER, "largest_logprob_difference": Optional(NUMBER),
        "recorded": bool, "same_model": bool, "differences": [str], "lens_difference": NUMBER,
        "sampler_reproduced": int,
    },
    "model": {
        "name": str, "family": str, "source": str, "format": str, "weights": str, "hash": str,
        "parameters": int, "bytes": int, "num_hidden_layers": int, "hidden_size": int,
        "intermediate_size": int, "num_attention_heads": int, "num_key_value_heads": int, "head_dim": int,
        "vocab_size": int, "tied": bool, "activation": str, "gated": bool, "norm": str, "qk_norm": bool,
        "post_norms": bool, "positions": str, "windows": [Optional(int)], "kv_cache_type": str,
        "page_size": int, "context": int,
    },
    "machine": {"cpu": str, "threads": int, "read_bytes_per_s": Optional(NUMBER)},
    "run": {
        "created": str, "seed": int, "sampling": dict, "prompt_length": int, "generated": int,
        "finish_reason": str, "reused_tokens": int, "drafted_tokens": int, "accepted_tokens": int,
        "preemptions": int, "timings": dict, "constraint": Optional({"kind": str, "text": str}),
    },
    "text": {
        "kind": str, "messages": Optional([dict]), "template": Optional(str), "prompt": str, "answer": str,
    },
    "tokens": [{
        "id": int, "text": str, "piece": str, "span": Optional([int]), "message": Optional(int),
        "special": bool, "generated": bool, "position": int,
    }],
    "weights": [{
        "name": str, "role": str, "layer": Optional(int), "shape": [int], "parameters": int, "type": str,
        "bytes": int, "tied_to": Optional(str),
    }],
    "stages": [{
        "key": str, "title": {"en": str, "zh": str}, "equation": str, "source": str, "roles": [str],
        "values": [str], "shape": str,
    }],
    "layers": [{"index": int, "window": Optional(int), "bytes": int, "stages": dict}],
    "timed_stages": [str],
    "decisions": [{
        "at": int, "token": int, "text": str, "logit": NUMBER, "logprob": NUMBER, "rank": int,
        "entropy": NUMBER, "recorded": {"logit": NUMBER, "logprob": Optional(NUMBER)},
        "top": [_TOKEN | {"logit": NUMBER, "probability": NUMBER}],
        "lens": {
            "top": [[_TOKEN | {"probability": NUMBER}]], "rank": [int], "probability": _NUMBERS,
            "first_leads": Optional(int),
        },
        "norms": {"residual": _NUMBERS, "attention_branch": _NUMBERS, "mlp_branch": _NUMBERS},
        "attention": Optional({"first_position": int, "weights": ARRAY}),
        "values": Optional(VALUES),
        "sampler": {
            "order": [str],
            "grammar": Optional({
                "allowed": int, "vocabulary": int, "probability": NUMBER,
                "barred": [_TOKEN | {"logit": NUMBER, "probability": NUMBER}],
            }),
            "candidates": [_TOKEN | {
                "logit": NUMBER, "penalised": NUMBER, "scaled": NUMBER, "probability": NUMBER,
                "cut": Optional(str), "final": NUMBER, "bucket": Optional(_NUMBERS),
            }],
            "rest": {
                "count": int, "probability": NUMBER,
                "histogram": Optional({"low": NUMBER, "width": NUMBER, "counts": [int]}),
            },
            "kept": int, "greedy": bool, "uniform": Optional(NUMBER), "chosen": int,
            "normalizer": {"max": NUMBER, "log_sum_exp": NUMBER},
        },
        "kv": {
            "positions": int, "pages": [int], "shared": int, "evicted": int, "skipped": int,
            "bytes_used": int, "bytes_allocated": int, "bytes_predicted": int,
        },
        "time": {
            "total": NUMBER, "rows": int, "embedding": NUMBER, "head": NUMBER, "sampling": NUMBER,
            "layers": [_NUMBERS],
        },
    }],
    "prompt_steps": [{"rows": int, "first_position": int, "seconds": NUMBER}],
    "prompt_lens": Optional({"text": [[str]], "probability": ARRAY}),
    "prompt_values": Optional(VALUES),
    "prompt_attention": Optional({"first_position": int, "shape": [str], "weights": ARRAY}),
    "roofline": Optional({
        "read_bytes_per_s": Optional(NUMBER), "operations_per_s": Optional(NUMBER), "operations_in": str,
        "bytes_per_token": int, "bytes_with_cache": Optional(NUMBER), "flops_per_token": NUMBER,
        "predicted_seconds": Optional(NUMBER), "measured_seconds": Optional(NUMBER),
        "run_seconds": Optional(NUMBER),
        "prefill": {
            "tokens": int, "bytes": NUMBER, "flops": NUMBER, "predicted_seconds": Optional(NUMBER),
            "measured_seconds": NUMBER,
        },
    }),
    "compare": Optional({
        "model": {"name": str, "format": str, "weights": str}, "bytes": [NUMBER], "bytes_per_token": [NUMBER],
        "kv_bytes": [NUMBER], "seconds_per_token": [Optional(NUMBER)], "first_divergent": Optional(int),
        "decisions": [{"kl": NUMBER, "chosen": int, "text": str, "probability": _NUMBERS, "rank": int}],
        "cosine": Optional(ARRAY),
    }),
}  # fmt: skip


def check_document(document: Mapping[str, Any], name: str) -> None:
    """Checks types, and that sizes agree with each other.

    Raises:
        CorruptFile: Names the first part that is not as it should be.
    """
    _check(document, SHAPE, name)
    model, run = document["model"], document["run"]
    layers, heads, vocabulary = model["num_hidden_layers"], model["num_attention_heads"], model["vocab_size"]
    decisions, tokens = document["decisions"], document["tokens"]
    first = run["prompt_length"] - 1
    _same(len(document["layers"]), layers, f"{name}: layers")
    _same(len(model["windows"]), layers, f"{name}: model.windows")
    _same(len(tokens), run["prompt_length"] + run["generated"], f"{name}: tokens")
    _same(len(decisions), run["generated"], f"{name}: decisions")
    _check_ids([token["id"] for token in tokens], vocabulary, f"{name}: tokens")
    _check_settings(run["sampling"], vocabulary, f"{name}: run.sampling")
    compared = document.get("compare")
    if compared is not None:
        _same(len(compared["decisions"]), len(decisions), f"{name}: compare.decisions")
        for key in ("bytes", "bytes_per_token", "kv_bytes", "seconds_per_token"):
            _same(len(compared[key]), 2, f"{name}: compare.{key}")
        if compared.get("cosine") is not None:
            _same(compared["cosine"]["shape"], [len(decisions), layers], f"{name}: compare.cosine.shape")
    before = max(0, first)
    for key, array in (document.get("prompt_values") or {}).items():
        whole = key not in _WITHOUT_LAYERS
        _same(array["shape"][:-1], [layers, before] if whole else [before], f"{name}: prompt_values.{key}")
    if document.get("prompt_attention") is not None:
        shape = document["prompt_attention"]["weights"]["shape"]
        _same(shape, [layers, heads, before, before], f"{name}: prompt_attention.weights.shape")
    for number, decision in enumerate(decisions):
        where = f"{name}: decisions[{number}]"
        _same(decision["at"], first + number, f"{where}.at")
        _same(decision["token"], tokens[first + number + 1]["id"], f"{where}.token")
        for key in ("top", "rank", "probability"):
            _same(len(decision["lens"][key]), layers + 1, f"{where}.lens.{key}")
        for key, extra in (("residual", 1), ("attention_branch", 0), ("mlp_branch", 0)):
            _same(len(decision["norms"][key]), layers + extra, f"{where}.norms.{key}")
        _same(len(decision["time"]["layers"]), layers, f"{where}.time.layers")
        for times in decision["time"]["layers"]:
            _same(len(times), len(document["timed_stages"]), f"{where}.time.layers")
        if not all(decision["lens"]["top"]):
            raise CorruptFile(f"{where}.lens.top has a layer without tokens")
        if decision["sampler"]["chosen"] not in {c["id"] for c in decision["sampler"]["candidates"]}:
            raise CorruptFile(f"{where}.sampler.candidates lacks the chosen token")
        if decision.get("attention") is not None:
            shape = decision["attention"]["weights"]["shape"]
            _same(shape, [layers, heads, decision["at"] + 1], f"{where}.attention.weights.shape")
        for key, array in (decision.get("values") or {}).items():
            if key == "logits":
                _same(array["shape"], [vocabulary], f"{where}.values.logits")
            else:
                leading = [] if key in _WITHOUT_LAYERS else [layers]
                _same(array["shape"][:-1], leading, f"{where}.values.{key[:40]}")


def _check_ids(ids: list[int], vocabulary: int, where: str) -> None:
    if not all(0 <= token < vocabulary for token in ids):
        raise CorruptFile(f"{where} has an id that is not in the vocabulary")


def _check_settings(settings: Mapping[str, Any], vocabulary: int, where: str) -> None:
    try:
        params = SamplingParams.from_options(settings)
    except UsageError as error:
        raise CorruptFile(f"{where} makes no sense", cause=error.message) from error
    _check_ids([token for token, _ in params.logit_bias], vocabulary, f"{where}.logit_bias")


def _same(found: object, expected: object, where: str) -> None:
    if found != expected:
        raise CorruptFile(f"{where} should be {expected}, and is {str(found)[:40]}")


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, Optional):
        if value is not None:
            _check(value, shape.part, where)
    elif isinstance(shape, _Array):
        unpacked(value if is_packed(value) else None, where)
    elif isinstance(shape, _Values):
        _expect(value, dict, where)
        for key, array in value.items():
            _check(array, ARRAY, f"{where}.{key[:40]}")
    elif isinstance(shape, Mapping):
        _expect(value, dict, where)
        for key, part in shape.items():
            if key not in value and not isinstance(part, Optional):
                raise CorruptFile(
                    f"{where} has no {key!r}", cause="it was edited, or another program wrote it"
                )
            _check(value.get(key), part, f"{where}.{key}")
    elif isinstance(shape, list):
        _expect(value, list, where)
        for index, part in enumerate(value):
            _check(part, shape[0], f"{where}[{index}]")
    else:
        _expect(value, shape, where)


def _expect(value: Any, kind: Any, where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise CorruptFile(f"{where} is no {names}", cause="it was edited, or another program wrote it")
    if isinstance(value, float) and not math.isfinite(value):
        raise CorruptFile(f"{where} is too large", cause="it was edited, or another program wrote it")
