"""A document, read: its arrays as NumPy's, its tokens as text, its books added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boli.errors import UsageError
from boli.trace.arrays import unpacked
from boli.trace.view.parts import Language, Say, saying
from boli.trace.view.shown import shown, token_text

Document = Mapping[str, Any]
Float32 = NDArray[np.float32]


# Parts of the step that are timed as a whole, and the stages that they are.
_MEMBERS: Final[Mapping[str, Sequence[str]]] = {
    "attention": ("scores", "mask", "softmax", "weighted_sum"),
    "cache": (),
}
# What they are called where there is little room.
_SHORT: Final = {
    "attention_norm": ("norm", "归一化"),
    "qkv": ("Q K V", "Q K V"),
    "rope": ("RoPE", "RoPE"),
    "cache": ("cache", "写缓存"),
    "attention": ("attention", "注意力"),
    "output_projection": ("output", "输出投影"),
    "mlp_norm": ("norm", "归一化"),
    "gate_up": ("gate, up", "门、升维"),
    "activation": ("activation", "激活"),
    "down": ("down", "降维"),
}


class Reading:
    """One document in one language.

    Args:
        document: Of schema "boli-trace/1".
        language: Of what is said about it.
        hide_sink: Whether attention to the first token is left out: where heads rest that find nothing.
    """

    def __init__(self, document: Document, language: Language = "en", *, hide_sink: bool = False) -> None:
        self.hide_sink = hide_sink
        self.document = document
        self.language = language
        self.say: Say = saying(language)
        self.model: Document = document["model"]
        self.tokens: Sequence[Document] = document["tokens"]
        self.decisions: Sequence[Document] = document["decisions"]
        self.layers: Sequence[Document] = document["layers"]
        self.stages: Mapping[str, Document] = {stage["key"]: stage for stage in document["stages"]}

    def decision(self, step: int) -> Document:
        """One decision.

        Raises:
            UsageError: There is none of that number.
        """
        return self._one_of("step", step, self.decisions)

    def layer(self, index: int) -> Document:
        """The static facts of one layer.

        Raises:
            UsageError: The model has none of that number.
        """
        return self._one_of("layer", index, self.layers)

    def token(self, position: int) -> str:
        """What the token at a position adds to the text, ready to be shown."""
        token = self.tokens[position]
        return token_text(token["text"], token["piece"])

    def chosen(self, step: int) -> str:
        """What the token that a decision chose adds."""
        at = self.decisions[step]["at"]
        if at + 1 < len(self.tokens):
            return self.token(at + 1)
        return token_text(self.decisions[step]["text"], str(self.decisions[step]["token"]))

    def attention(self, step: int) -> Float32 | None:
        """The weights with which a decision's token looked back, `[layers, heads, positions]`."""
        rows = self.decisions[step].get("attention")
        return None if rows is None else unpacked(rows["weights"], "attention")

    def value(self, step: int, name: str, layer: int) -> Float32 | None:
        """An intermediate of a layer, if the trace has them."""
        values = self.decisions[step].get("values") or {}
        if name not in values:
            return None
        whole = np.asarray(unpacked(values[name], name), np.float32)
        return whole[layer] if whole.ndim > 1 else whole

    def weights(self, roles: Sequence[str], layer: int | None) -> list[Document]:
        """The matrices and vectors of some roles in a layer, or outside of all."""
        return [w for w in self.document["weights"] if w["role"] in roles and w["layer"] == layer]

    def title(self, key: str) -> str:
        """What a stage is called."""
        title = self.stages[key]["title"] if key in self.stages else {}
        return shown(title.get(self.language) or title.get("en") or key.replace("_", " "))

    @property
    def name(self) -> str:
        """What the model is called; of a path its last part."""
        return shown(PurePath(str(self.model["name"])).name)

    def timed(self, step: int) -> Sequence[str]:
        """The names of the stages that were timed in a decision's layers."""
        own = self.decisions[step].get("timed_stages")
        names: Sequence[str] = own or self.document.get("timed_stages") or ()
        return names

    def stages_of(self, timed: str) -> list[str]:
        """The stages whose time is measured together under a name such as `attention_norm+qkv`."""
        return [key for part in timed.split("+") for key in _MEMBERS.get(part, (part,)) if key in self.stages]

    def timed_title(self, timed: str) -> str:
        """What the stages that are measured together are called."""
        parts = timed.split("+")
        names = (self.say(*_SHORT[part]) if part in _SHORT else self.title(part) for part in parts)
        return self.say(", ", "、").join(names)

    def _one_of(self, name: str, number: int, them: Sequence[Document]) -> Document:
        if 0 <= number < len(them):
            return them[number]
        few = f"0 to {len(them) - 1}" if them else "none"
        raise UsageError(f"there is no {name} {number} in this trace", remedy=f"it has {name}s {few}")
