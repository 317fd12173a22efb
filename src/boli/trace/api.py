"""A trace in Python: the document as objects, and arrays as NumPy has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boli.engine.batch import Float32
from boli.engine.whole_file import write_whole
from boli.trace.arrays import unpacked
from boli.trace.chain import Chain
from boli.trace.files import load_document, save_document, sealed
from boli.trace.looking import LayerTrace, LensWall, SamplerStep, Step

if TYPE_CHECKING:
    from boli.engine.record import RunRecord
    from boli.trace.observing import Evidence


@dataclass(frozen=True, slots=True)
class Live:
    """What a trace holds beyond its document as long as it lives: numbers as they were computed."""

    run: RunRecord
    evidence: Evidence
    chains: Sequence[Chain]


class Trace:
    """What happened in a run. Made by `LLM.trace`, `LLM.replay` or `Trace.load`.

    Attributes:
        steps: Each decision, in order.
        layers: The layers, each with its attention.
        sampler: How each token was chosen.
    """

    def __init__(self, document: Mapping[str, Any], live: Live | None = None) -> None:
        self._document = document
        self._live = live
        self.steps = [Step(self, number) for number in range(len(document["decisions"]))]
        self.layers = [LayerTrace(self, index) for index in range(len(document["layers"]))]
        self.sampler = [SamplerStep(self, number) for number in range(len(document["decisions"]))]

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads a trace that was saved.

        Raises:
            ModelNotFound: There is no such file.
            CorruptFile: It is no trace, of another version, too large, cut short or edited.
        """
        return cls(load_document(Path(path)))

    def save(self, path: str | Path) -> None:
        """Writes the document as JSON, in one piece: a full disk leaves no half file.

        Raises:
            StorageError: It could not be written.
        """
        save_document(self._document, Path(path))

    def document(self) -> dict[str, Any]:
        """The document, ready for JSON, with its seal; `docs/trace-schema.md` describes it."""
        return sealed(self._document)

    def compare(self, other: Trace) -> Trace:
        """This trace, with another of the same tokens held against it: `compare` of the document.

        Args:
            other: The same tokens in another model, as `boli.trace.replay.replay(…, other_model=True)` makes.

        Raises:
            UsageError: They are of different tokens, or come from files.
        """
        from boli.trace.compare import compare  # noqa: PLC0415

        return Trace({**self._document, "compare": compare(self, other)}, self._live)

    def html(self, path: str | Path) -> None:
        """Writes a page that shows the trace, by itself and without a network.

        Raises:
            StorageError: It could not be written.
        """
        from boli.trace.page import page_html  # noqa: PLC0415  # reads the page's program

        write_whole(path, page_html(self.document()), "the page")

    @property
    def detail(self) -> str:
        """`summary`, `rows` or `full`."""
        return str(self._document["detail"])

    @property
    def proof(self) -> dict[str, Any]:
        """The replay held against the run: `largest_logit_difference` and more."""
        return dict(self._document["proof"])

    @property
    def price(self) -> dict[str, Any]:
        """Bytes and seconds, predicted and as they were."""
        return dict(self._document["price"])

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return str(self._document["text"]["prompt"] + self._document["text"]["answer"])

    @cached_property
    def logits(self) -> Float32 | None:
        """Of each decision, as the model gave them: float32 `[decisions, vocab_size]`.

        None in a trace from a file that was not made in `full` detail.
        """
        rows = [self._logits(number) for number in range(len(self.steps))]
        return (
            None if any(row is None for row in rows) else np.stack([row for row in rows if row is not None])
        )

    @cached_property
    def residual(self) -> Float32 | None:
        """The residual stream of each decision after the embedding and after each layer.

        float32 `[decisions, layers + 1, hidden_size]`; None as for `logits`.
        """
        streams = []
        for step in self.steps:
            start, layers = step.value("embedding"), step.value("residual")
            if start is None or layers is None:
                return None
            streams.append(np.vstack([start[None], layers]))
        return np.stack(streams)

    def lens(self) -> LensWall:
        """What the model would say after each layer, at each decision."""
        decisions = [each["lens"] for each in self._document["decisions"]]
        return LensWall(
            text=[[layer[0]["text"] for layer in lens["top"]] for lens in decisions],
            rank=np.array([lens["rank"] for lens in decisions], np.int32),
            probability=np.array([lens["probability"] for lens in decisions], np.float32),
            first_leads=[lens["first_leads"] for lens in decisions],
        )

    def __repr__(self) -> str:
        model, proof = self._document["model"], self._document["proof"]
        return (
            f"Trace({model['name']}, {self.detail}: {len(self.steps)} decisions, {len(self.layers)} layers, "
            f"largest difference of a logit {proof['largest_logit_difference']:g})"
        )

    def _repr_html_(self) -> str:
        from boli.trace.view.notebook import to_html  # noqa: PLC0415  # only a notebook asks

        return to_html(self.document())

    def _logits(self, number: int) -> Float32 | None:
        if self._live is not None:
            return self._live.evidence.decisions[number].logits
        return self.steps[number].value("logits")

    def _attention(self, number: int) -> Float32 | None:
        if self._live is not None:
            return self._live.evidence.decisions[number].attention
        attention = self._document["decisions"][number]["attention"]
        return (
            None if attention is None else unpacked(attention["weights"], f"attention of decision {number}")
        )

    def _told(self, token: int) -> str:
        return self._texts.get(token, "")

    @cached_property
    def _texts(self) -> dict[int, str]:
        """Texts of all tokens that the document names."""
        texts: dict[int, str] = {}
        for decision in self._document["decisions"]:
            for entry in (*decision["top"], *decision["sampler"]["candidates"]):
                texts[entry["id"]] = entry["text"]
        return texts
