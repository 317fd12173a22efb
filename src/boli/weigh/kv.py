"""The KV cache: what is kept of the tokens that were read, and whose rule says how much.

The same model takes different amounts in different engines. So every account names its engine:

    model         what must be kept, and nothing else: Σ positions · row, a window's positions at most
    boli          pages of boli's own cache, as its ledger enters them
    llama.cpp     cells padded to 256, a window's with the micro-batch on top; one stream a request
    vllm          blocks of 16; a window may begin inside a block
    transformers  `DynamicCache`: one position less than a window; MLA expanded to full heads
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from boli.errors import UnsupportedModel, UsageError
from boli.weigh.amount import Amount, amount, total
from boli.weigh.kv_rules import (
    DTYPES_OF,
    ENGINES,
    NOT_MODELLED,
    Engine,
    Kind,
    Rule,
    dtype_named,
    positions_of,
    row_of,
    sees_all,
    variants_of,
)
from boli.weigh.model import LayerFacts, Model, ModelFacts

MAX_CONTEXT: Final = 10**9
MAX_REQUESTS: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayers:
    """Layers that keep alike.

    Attributes:
        kind: What they see, or "cross" for what a decoder keeps of the encoder's output.
        window: Of how many positions, or None.
        count: How many layers.
        row: Bytes of one position in one of them.
        positions: That one request keeps there.
        bytes: Of all these layers and all requests.
    """

    kind: Kind
    window: int | None
    count: int
    row: Amount
    positions: Amount
    bytes: Amount


@dataclass(frozen=True, kw_only=True)
class KvAccount:
    """The cache of some requests.

    Attributes:
        engine: Whose rule.
        dtype: What the numbers are.
        context: Positions of each request.
        requests: How many at once.
        layers: The layers, grouped; empty for "boli", whose pages hold all layers.
        bytes: What the engine allocates.
        bytes_per_token: What one more position takes in all layers, before any window is full.
        bytes_per_further_token: The same at `context`: full windows do not grow.
        variants: Other ways to keep the same, in bytes a token: for MLA.
        notes: What a reader should know.
        not_modelled: What is left out.
    """

    engine: Engine
    dtype: str
    context: int
    requests: int
    layers: tuple[KvLayers, ...]
    bytes: Amount
    bytes_per_token: Amount
    bytes_per_further_token: Amount
    variants: Mapping[str, Amount]
    notes: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()

    @cached_property
    def fixed_bytes(self) -> Amount:
        """What does not grow with the context any more."""
        return amount(
            "bytes", "bytes - requests · context · bytes_per_further_token",
            bytes=self.bytes.value, requests=self.requests, context=self.context,
            bytes_per_further_token=self.bytes_per_further_token.value,
        )  # fmt: skip


def weigh_kv(
    model: Model,
    *,
    context: int,
    requests: int = 1,
    dtype: str | None = None,
    engine: Engine = "model",
    source: int | None = None,
) -> KvAccount:
    """The KV cache of requests of equal length.

    Args:
        model: The model.
        context: Positions of each request, prompt and answer together.
        requests: How many at once.
        dtype: One of `boli.weigh.kv_rules.DTYPES`; the model's 16-bit type if left out.
        engine: Whose rule.
        source: Positions that an encoder read, for what cross-attention keeps; `context` if left out.

    Raises:
        UsageError: A size is out of range, or the engine has no such type.
        UnsupportedModel: The layers are not known, or boli does not run the model and its own rule
            was asked for.
    """
    facts = model.facts
    if facts is None:
        raise UnsupportedModel(
            f"{model.name}: the KV cache cannot be told", cause="only the list of tensors is known"
        )
    if engine not in ENGINES:
        raise UsageError(f"there is no rule of {engine!r}", remedy=f"choose from {', '.join(ENGINES)}")
    _check("the context", context, MAX_CONTEXT)
    _check("the number of requests", requests, MAX_REQUESTS)
    name = dtype_named(dtype) if dtype else "FP16" if model.dtype == "F16" and engine != "boli" else "BF16"
    possible = [each for each in DTYPES_OF[engine] if each != "FP8_DS_MLA" or facts.mla]
    if name not in possible:
        raise UsageError(
            f"{engine} has no KV cache of {name} for this model", remedy=f"choose from {', '.join(possible)}"
        )
    if engine == "boli":
        return _of_boli(model, context, requests, name)
    return _by_layers(model, facts, Rule(engine, name, context, requests, source or context))


def _by_layers(model: Model, facts: ModelFacts, rule: Rule) -> KvAccount:
    family = model.blueprint.config.family
    groups: dict[tuple[object, ...], list[LayerFacts]] = {}
    for layer in facts.layers:
        if layer.attention != "bidirectional":
            window = None if sees_all(family, rule.engine) else layer.window
            kind = "full" if window is None and layer.attention in ("sliding", "chunked") else layer.attention
            shape = layer.num_key_value_heads, layer.key_head_dim, layer.value_head_dim, layer.state
            groups.setdefault((kind, window, *shape), []).append(layer)
            if layer.cross_attention:
                groups.setdefault(("cross", None, *shape), []).append(layer)
    rows = tuple(
        _layers(key[0], key[1], layers, facts, rule)  # type: ignore[arg-type]
        for key, layers in groups.items()
    )
    growing = [each for each in rows if each.kind not in ("linear", "cross")]
    endless = [each for each in growing if each.window is None or _has_room(each, rule)]
    notes = []
    if rule.context > facts.max_position_embeddings > 0:
        notes.append(f"the model was made for {facts.max_position_embeddings:,} positions")
    if any(layer.window and sees_all(family, rule.engine) for layer in facts.layers):
        notes.append("llama.cpp keeps all positions of this family's windows")
    if not growing:
        notes.append("an encoder keeps no cache")
    return KvAccount(
        engine=rule.engine,
        dtype=rule.dtype,
        context=rule.context,
        requests=rule.requests,
        layers=rows,
        bytes=_sum({_name(each): each.bytes for each in rows}),
        bytes_per_token=_sum({_name(each): _times(each) for each in growing}),
        bytes_per_further_token=_sum({_name(each): _times(each) for each in endless}),
        variants=variants_of(facts),
        notes=tuple(notes),
        not_modelled=NOT_MODELLED[rule.engine],
    )


def _has_room(layers: KvLayers, rule: Rule) -> bool:
    """Whether a window is not full yet."""
    most = positions_of(layers.kind, layers.window, replace(rule, context=MAX_CONTEXT))
    return layers.positions.value < most.value


def _layers(
    kind: Kind,
    window: int | None,
    layers: list[LayerFacts],
    facts: ModelFacts,
    rule: Rule,
) -> KvLayers:
    row = row_of(kind, layers[0], facts, rule)
    positions = positions_of(kind, window, rule)
    return KvLayers(
        kind=kind,
        window=window,
        count=len(layers),
        row=row,
        positions=positions,
        bytes=amount(
            "bytes", "requests · layers · positions · row", certainty=row.certainty,
            requests=rule.requests, layers=len(layers), positions=positions.value, row=row.value,
        ),
    )  # fmt: skip


def _of_boli(model: Model, context: int, requests: int, dtype: str) -> KvAccount:
    """Pages of boli's own cache: each holds some positions of all layers."""
    if model.not_runnable:
        raise UnsupportedModel(
            f"{model.name}: boli's KV cache cannot be told", cause=model.not_runnable,
            remedy="ask for what the model needs, or for another engine's rule",
        )  # fmt: skip
    from boli.cpu.sizes import PAGE_SIZE  # noqa: PLC0415  # for this engine only
    from boli.weigh.engine_sizes import page_bytes, pages  # noqa: PLC0415

    full = -(-context // PAGE_SIZE)
    count = amount(
        "pages", "requests · ceil(context / page_size) + beside",
        requests=requests, context=context, page_size=PAGE_SIZE, beside=pages(context) - full,
    )  # fmt: skip
    page = page_bytes(model.blueprint.config, {"FP32": "f32", "BF16": "bf16", "INT8": "int8"}[dtype])
    per_token = amount("bytes", "page_bytes / page_size", page_bytes=page, page_size=PAGE_SIZE)
    return KvAccount(
        engine="boli",
        dtype=dtype,
        context=context,
        requests=requests,
        layers=(),
        bytes=amount("bytes", "pages · page_bytes", pages=count.value, page_bytes=page, note=count.explain()),
        bytes_per_token=per_token,
        bytes_per_further_token=per_token,
        variants={},
        notes=("a page holds 32 positions of all layers, windowed or not; some are for requests beside",),
    )


def _times(layers: KvLayers) -> Amount:
    return amount("bytes", "layers · row", layers=layers.count, row=layers.row.value)


def _name(layers: KvLayers) -> str:
    return f"{layers.count} {layers.kind}" + (f" {layers.window}" if layers.window else "")


def _sum(parts: Mapping[str, Amount]) -> Amount:
    return total(parts) if parts else amount("bytes", "0")


def _check(what: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{what} must be a whole number from 1 to {most:,}, not {value!r}")
