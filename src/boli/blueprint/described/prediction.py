"""Modules that predict further tokens (MTP), as DeepSeek V3 and GLM-4.5 have them.

Each is one more layer, which reads the last hidden state and the embedding of the next token: Figure 3 of
https://arxiv.org/abs/2412.19437. Checkpoints number it behind the model's own layers, and store its copies of
embedding and head, although they are the model's.
"""

from __future__ import annotations

from typing import Final

from boli.blueprint.config import Config
from boli.blueprint.described.lines import Lines, Symbols, weights
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Weight

MOST: Final = 16
_BEFORE: Final[Lines] = (
    ("embedding", "embed_tokens.weight", "nextn.embed_tokens", "V d"),
    ("prediction_embedding_norm", "enorm.weight", "nextn.enorm", "d"),
    ("prediction_hidden_norm", "hnorm.weight", "nextn.hnorm", "d"),
    ("prediction_projection", "eh_proj.weight", "nextn.eh_proj", "d 2d"),
)
_AFTER: Final[Lines] = (
    ("prediction_norm", "shared_head.norm.weight", "nextn.shared_head_norm", "d"),
    ("head", "shared_head.head.weight", "nextn.shared_head_head", "V d"),
)


def prediction(fields: Fields, config: Config, layer: Lines, symbols: Symbols) -> tuple[Weight, ...]:
    """The weights of `num_nextn_predict_layers` modules.

    Args:
        fields: The configuration.
        config: What was read of it.
        layer: The lines of the layer inside a module: like the model's last.
        symbols: What its symbols mean.
    """
    count = fields.integer("num_nextn_predict_layers", "layer_count", 0)
    fields.require(count <= MOST, "num_nextn_predict_layers", f"at most {MOST}")
    lines = (*_BEFORE, *layer, *_AFTER)
    known = {**symbols, "2d": 2 * config.hidden_size}
    first = config.num_hidden_layers
    return tuple(
        weight
        for i in range(first, first + count)
        for weight in weights(lines, known, f"model.layers.{i}.", i)
    )
