"""Every weight with its bytes: the first account of `boli weigh`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final, cast

from boli.blueprint.config import Config
from boli.blueprint.weights import Role, Weight
from boli.weigh.amount import Amount, amount, total
from boli.weigh.blocks import nbytes
from boli.weigh.model import Model

# Looked up, one row a token, and not multiplied with.
LOOKED_UP: Final[frozenset[Role]] = frozenset({"embedding", "position_embedding", "token_type_embedding"})
OF_EXPERTS: Final[frozenset[Role]] = frozenset({
    "expert_gate", "expert_up", "expert_down", "expert_gate_up", "expert_gate_up_bias", "expert_down_bias",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRow:
    """One weight.

    Attributes:
        name: As in the family's checkpoint; of experts without their number.
        role: What it does.
        layer: Its layer, an encoder's counted first, or None.
        shape: As in `boli.blueprint.Weight`.
        parameters: How many numbers it holds; 0 if it is tied to another weight, which holds them.
        active_parameters: How many of them work for one token: of experts, the chosen ones'. A tied head
            reads the embedding's numbers, so that here they count for the head.
        type: Number format, such as "BF16" or "Q4_K".
        bytes: What it takes; 0 if tied.
        tied_to: Name of the weight whose numbers it shares.
        prediction: It belongs to a module that predicts further tokens: stored, and in no total but
            `WeightsAccount.stored_bytes`.
    """

    name: str
    role: Role
    layer: int | None
    shape: tuple[int, ...]
    parameters: int
    active_parameters: int
    type: str
    bytes: int
    tied_to: str | None
    prediction: bool = False


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights that differ only in their layer, as one line of a table.

    Attributes:
        row: The first of them.
        layers: The layers that have one, such as `(0, 1, 2)`; empty for a weight outside the layers.
    """

    row: WeightRow
    layers: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many weights these are."""
        return max(len(self.layers), 1)

    @property
    def parameters(self) -> int:
        """Of all of them together."""
        return self.row.parameters * self.count

    @property
    def bytes(self) -> int:
        """Of all of them together."""
        return self.row.bytes * self.count


@dataclass(frozen=True)
class WeightsAccount:
    """All weights of a model, and their sums.

    Attributes:
        rows: One for each weight, in the model's order; those for prediction last.
        not_modelled: What the files hold besides, or what is unknown.
    """

    rows: tuple[WeightRow, ...]
    not_modelled: tuple[str, ...] = ()

    @cached_property
    def model_rows(self) -> tuple[WeightRow, ...]:
        """Without the modules that predict further tokens."""
        return tuple(row for row in self.rows if not row.prediction)

    @cached_property
    def parameters(self) -> Amount:
        """Distinct numbers of the model; tied weights count once."""
        return _by_part(self.model_rows, "parameters")

    @cached_property
    def bytes(self) -> Amount:
        """Bytes of the model's weights."""
        return _by_part(self.model_rows, "bytes")

    @cached_property
    def stored_parameters(self) -> Amount:
        """With the modules that predict further tokens, as far as the checkpoint does not repeat
        what the model has already.
        """  # noqa: D205
        prediction = sum(row.parameters for row in self.rows if row.prediction)
        return amount("parameters", "model + prediction", model=self.parameters.value, prediction=prediction)

    @cached_property
    def stored_bytes(self) -> Amount:
        """As `stored_parameters`, in bytes."""
        prediction = sum(row.bytes for row in self.rows if row.prediction)
        return amount("bytes", "model + prediction", model=self.bytes.value, prediction=prediction)

    @cached_property
    def active_parameters(self) -> Amount:
        """What one token is multiplied with or added to: without what is only looked up, with the
        head even where it is tied, and of the experts only those that are chosen.
        """  # noqa: D205
        return self._active(embedding=False)

    @cached_property
    def active_parameters_with_embedding(self) -> Amount:
        """The other convention: the whole of the input embedding counts too, once where it is tied."""
        return self._active(embedding=True)

    @cached_property
    def parameters_without_embeddings(self) -> Amount:
        """Without the embeddings and the head, as Kaplan et al. 2020 count (arXiv:2001.08361)."""
        outside = LOOKED_UP | {"head"}
        removed = sum(row.parameters for row in self.model_rows if row.role in outside)
        return amount(
            "parameters", "parameters - embeddings_and_head",
            parameters=self.parameters.value, embeddings_and_head=removed,
        )  # fmt: skip

    @cached_property
    def by_type(self) -> Mapping[str, int]:
        """Bytes of the model's weights in each number format, the largest first."""
        sums: dict[str, int] = {}
        for row in self.model_rows:
            if not row.tied_to:
                sums[row.type] = sums.get(row.type, 0) + row.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @cached_property
    def groups(self) -> tuple[WeightGroup, ...]:
        """The rows folded over layers whose weights are equal but for the layer's number."""
        kinds: dict[tuple[object, ...], list[WeightRow]] = {}
        for row in self.rows:
            name = row.name if row.layer is None else row.name.replace(f".{row.layer}.", ".#.", 1)
            kind = (name, row.role, row.layer is None, row.shape, row.type, row.tied_to, row.prediction)
            kinds.setdefault(kind, []).append(row)
        return tuple(
            WeightGroup(rows[0], tuple(row.layer for row in rows if row.layer is not None))
            for rows in kinds.values()
        )

    def _active(self, *, embedding: bool) -> Amount:
        working = [row for row in self.model_rows if row.role not in LOOKED_UP]
        parts = {"experts": 0, "head": 0, "rest": 0}
        for row in working:
            part = "experts" if row.role in OF_EXPERTS else "head" if row.role == "head" else "rest"
            parts[part] += row.active_parameters
        formula = "rest + head" + (" + experts" if parts["experts"] else "")
        inputs: dict[str, Any] = {name: count for name, count in parts.items() if name in formula}
        if embedding:
            tied = {row.tied_to for row in self.model_rows}
            rows = [row for row in self.model_rows if row.role in LOOKED_UP and row.name not in tied]
            inputs["embeddings"] = sum(row.parameters for row in rows)
            formula += " + embeddings"
        return amount("parameters", formula, **inputs)


def weigh_weights(model: Model) -> WeightsAccount:
    """The account of a model's weights."""
    config = model.blueprint.config
    rows = [_row(weight, model, config) for weight in model.blueprint]
    rows += [_row(weight, model, config, prediction=True) for weight in model.blueprint.prediction]
    return WeightsAccount(tuple(rows), model.notes)


def _row(weight: Weight, model: Model, config: Config, *, prediction: bool = False) -> WeightRow:
    kind = model.stored.get(weight.tied_to or weight.name, model.dtype)
    numbers = prod(weight.shape)
    active = numbers
    if weight.role in OF_EXPERTS and config.experts is not None:
        active = numbers // config.experts.num_experts * config.experts.num_experts_per_tok
    return WeightRow(
        name=weight.name,
        role=weight.role,
        layer=weight.layer,
        shape=weight.shape,
        parameters=weight.parameters,
        active_parameters=active,
        type=kind,
        bytes=0 if weight.tied_to else nbytes(weight.shape, kind),
        tied_to=weight.tied_to,
        prediction=prediction,
    )


# The parts in which people think of a model, by role; what is not named is "other".
_PARTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("embeddings", ("embedding", "position_embedding", "token_type_embedding")),
    ("head", ("head", "head_bias")),
    ("attention", ("q", "k", "v", "o", "qkv", "cross_q", "cross_k", "cross_v", "cross_o",
                   "q_a", "q_b", "kv_a", "kv_b", "attention_sinks", "relative_position_bias")),
    ("mlp", ("gate", "up", "down", "gate_up")),
    ("shared_experts", ("shared_gate", "shared_up", "shared_down", "shared_router")),
    ("experts", tuple(OF_EXPERTS)),
    ("router", ("router", "router_bias")),
    ("linear_attention", ("linear_in", "linear_gates", "conv", "linear_decay", "linear_dt_bias",
                          "linear_out")),
    ("projections", ("embedding_projection", "head_projection", "pooler")),
    ("prediction", ("prediction_projection",)),
)  # fmt: skip
_PART_OF: Final = {role: part for part, roles in _PARTS for role in roles}


def part_of(role: str) -> str:
    """The part of a model that a role belongs to, such as "attention", "experts" or "norms"."""
    if role in _PART_OF:
        return _PART_OF[role]
    return "norms" if "norm" in role else "biases" if role.endswith("bias") else "other"


def _by_part(rows: Iterable[WeightRow], unit: str) -> Amount:
    sums: dict[str, int] = {}
    for row in rows:
        count = row.parameters if unit == "parameters" else row.bytes
        if count:
            sums[part_of(row.role)] = sums.get(part_of(row.role), 0) + count
    parts = {
        part: amount(unit, part, **cast("dict[str, Any]", {part: count})) for part, count in sums.items()
    }
    return total(parts, unit=unit)
