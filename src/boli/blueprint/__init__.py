"""What a model is: its numbers and the list of its weights. Pure Python, nothing is allocated here."""

from boli.blueprint.config import Config, Rope
from boli.blueprint.families import from_gguf, from_hf_config
from boli.blueprint.weights import Blueprint, Role, Stored, Weight

__all__ = ["Blueprint", "Config", "Role", "Rope", "Stored", "Weight", "from_gguf", "from_hf_config"]
