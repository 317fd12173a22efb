"""What can be seen of a step: names, shapes, and the price in bytes. Light: no Numba."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from boli.cpu import plan as p
from boli.cpu.layouts import padded
from boli.errors import UsageError

if TYPE_CHECKING:
    from boli.blueprint.config import Config
    from boli.engine.batch import Float32

# Each place, and its row in the table WATCHED, in the order of the step.
PLACES = {
    "embedding": p.AT_EMBEDDING,
    "attention_norm": p.AT_ATTENTION_NORM,
    "q": p.AT_Q,
    "k": p.AT_K,
    "v": p.AT_V,
    "q_rotated": p.AT_Q_ROTATED,
    "k_rotated": p.AT_K_ROTATED,
    "heads": p.AT_HEADS,
    "attention_branch": p.AT_ATTENTION_BRANCH,
    "after_attention": p.AT_AFTER_ATTENTION,
    "mlp_norm": p.AT_MLP_NORM,
    "gate": p.AT_GATE,
    "up": p.AT_UP,
    "inner": p.AT_INNER,
    "mlp_branch": p.AT_MLP_BRANCH,
    "residual": p.AT_RESIDUAL,
    "final_norm": p.AT_FINAL_NORM,
}
PROBES = tuple(PLACES)

Shapes = dict[str, tuple[int, ...]]

# A layer's stages, as the barriers divide them.
STAGES = (
    "attention_norm+qkv",
    "rope+cache",
    "attention",
    "output_projection",
    "mlp_norm+gate_up+activation",
    "down",
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one step. The arrays belong to the caller.

    Attributes:
        logits: float32 `[outputs, vocab_size]`.
        values: float32 arrays by name, those that were wanted:

            embedding           `[rows, hidden_size]`  after look-up, scale and position embedding
            attention_norm      `[layers, rows, hidden_size]`
            q, k, v             `[layers, rows, heads · head_dim]`  with bias, before QK-norm and RoPE
            q_rotated, k_rotated                       after both
            heads               `[layers, rows, heads · head_dim]`  attention's weighted sums, before W_o
            attention_branch    `[layers, rows, hidden_size]`  what attention adds to the residual stream
            after_attention     `[layers, rows, hidden_size]`  the residual stream then
            mlp_norm            `[layers, rows, hidden_size]`
            gate, up, inner     `[layers, rows, intermediate_size]`  inner is act(gate) · up, or act(up)
                                                       in families without gate, which have no `gate`
            mlp_branch          `[layers, rows, hidden_size]`
            residual            `[layers, rows, hidden_size]`  the residual stream after the layer
            final_norm          `[outputs, hidden_size]`

        stage_names: The stages of a layer.
        seconds: float64 `[layers, stages]`: from one barrier to the next, on the first thread's clock. What
            watching takes is left out, but for copies within a stage (norms, heads, gate, up, inner).
        other_seconds: The same of `embedding` and `head`.
        nbytes: Bytes of all arrays; logits are padded to a multiple of 32.
    """

    logits: Float32
    values: dict[str, Float32]
    stage_names: tuple[str, ...]
    seconds: npt.NDArray[np.float64]
    other_seconds: dict[str, float]
    nbytes: int


def shapes(config: Config, rows: int, outputs: int, wanted: Collection[str]) -> Shapes:
    """The shape of each value that is wanted and that the family has, in the order of `PROBES`.

    Raises:
        UsageError: a name is not one of `PROBES`.
    """
    for name in wanted:
        if name not in PLACES:
            raise UsageError(
                f"a step has nothing to show that is called {name!r}",
                remedy=f"choose from {', '.join(PROBES)}",
            )
    q, kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    columns = {"q": q, "q_rotated": q, "heads": q, "k": kv, "k_rotated": kv, "v": kv}
    columns |= dict.fromkeys(("gate", "up", "inner"), config.intermediate_size)
    found: Shapes = {}
    for name in PROBES:
        if name not in wanted or (name == "gate" and not config.gated_mlp):
            continue
        size = columns.get(name, config.hidden_size)
        if name in ("embedding", "final_norm"):
            found[name] = (rows if name == "embedding" else outputs, size)
        else:
            found[name] = (config.num_hidden_layers, rows, size)
    return found


def observation_bytes(config: Config, rows: int, outputs: int, wanted: Collection[str]) -> int:
    """Bytes of an `Observation`."""
    values = sum(math.prod(shape) for shape in shapes(config, rows, outputs, wanted).values())
    logits = outputs * padded(config.vocab_size, 32)
    return 4 * (values + logits) + 8 * config.num_hidden_layers * len(STAGES)
