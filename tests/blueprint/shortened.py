"""Configurations of the same model with fewer layers, so that tests are quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fewer_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The same model with so many layers, under whichever name it has for them."""
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "N")
    fewer = {key: layers if key in names else value for key, value in config.items()}
    return fewer | ({"layer_types": config["layer_types"][:layers]} if "layer_types" in config else {})
