"""A trace in Python: the document as objects, and arrays as NumPy has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from boli.engine.batch import Float32
from boli.engine.params import SamplingOptions, SamplingParams
from boli.engine.whole_file import write_whole
from boli.errors import UsageError
from boli.trace.arrays import unpacked
from boli.trace.chain import Chain, follow
from boli.trace.document import describe_chain
from boli.trace.files import load_document, save_document, sealed

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
            f"Trace({model['name']}, {self.detail}: {len(self.steps)} decisions in {len(self.layers)} layers; "
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


@dataclass(frozen=True, slots=True)
class LensWall:
    """The logit lens of all decisions. Entry `layers` repeats the last layer: what comes out in the end.

    Attributes:
        text: The likeliest token, `[decisions][layers + 1]`.
        rank: How many tokens are likelier than the chosen one, int32 `[decisions, layers + 1]`.
        probability: Of the chosen one, float32 `[decisions, layers + 1]`.
        first_leads: The layer from which on the chosen token stays first; None if it never does.
    """

    text: list[list[str]]
    rank: NDArray[np.int32]
    probability: Float32
    first_leads: list[int | None]


class Step:
    """One decision: what was read, and what came of it."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace, self._number = trace, number
        self.data: Mapping[str, Any] = trace._document["decisions"][number]

    @property
    def at(self) -> int:
        """Position of the last token that was read."""
        return int(self.data["at"])

    @property
    def token(self) -> int:
        """The token that was chosen."""
        return int(self.data["token"])

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.data["text"])

    @property
    def logprob(self) -> float:
        """Its natural-log probability under the model."""
        return float(self.data["logprob"])

    @property
    def attention(self) -> Float32 | None:
        """Attention of the last token, float32 `[layers, num_attention_heads, at + 1]`; None in `summary`."""
        return self._trace._attention(self._number)

    def value(self, name: str) -> Float32 | None:
        """An intermediate of the last token, float32 `[layers, size]` or `[size]`.

        Args:
            name: A probe, such as `q` or `residual`; or `logits`.

        Returns:
            None if it was not kept; in a trace from a file only `full` detail keeps any.
        """
        if self._trace._live is not None:
            seen = self._trace._live.evidence.decisions[self._number]
            return seen.logits if name == "logits" else seen.values.get(name)
        array = self.data.get("values", {}).get(name)
        return None if array is None else unpacked(array, f"{name} of decision {self._number}")

    def __repr__(self) -> str:
        return f"Step({self._number}: {self.text!r}, at position {self.at}, logprob {self.logprob:.4f})"


class LayerTrace:
    """One layer."""

    def __init__(self, trace: Trace, index: int) -> None:
        self._trace, self.index = trace, index
        self.data: Mapping[str, Any] = trace._document["layers"][index]

    @property
    def window(self) -> int | None:
        """How many positions it sees, itself included; None for all."""
        window = self.data["window"]
        return None if window is None else int(window)

    @property
    def weights(self) -> list[Mapping[str, Any]]:
        """Its matrices and vectors: name, role, shape, type, bytes."""
        return [each for each in self._trace._document["weights"] if each["layer"] == self.index]

    @property
    def attention(self) -> Attention:
        """Who looked where.

        Raises:
            UsageError: The trace has none: it is of `summary` detail.
        """
        if self._trace.detail == "summary":
            raise UsageError("a trace in 'summary' detail has no attention", remedy="take detail 'rows'")
        return Attention(self._trace, self.index)

    def __repr__(self) -> str:
        return f"LayerTrace({self.index}, {self.data['bytes']:,} bytes of weights, window {self.window})"


class Attention:
    """Attention of one layer, by head: weights, not importance."""

    def __init__(self, trace: Trace, layer: int) -> None:
        self._trace, self._layer = trace, layer

    @cached_property
    def weights(self) -> Float32:
        """float32 `[num_attention_heads, decisions, positions]`.

        Row `n` is the token at `positions_of[n]`, where token `n` of the answer was chosen; it sums to 1 over
        the positions up to its own, and is 0 behind it. In a file in `rows` detail weights are rounded to
        multiples of 1/255.
        """
        rows = [self._trace._attention(number) for number in range(len(self._trace.steps))]
        kept = [row[self._layer] for row in rows if row is not None]
        whole = np.zeros((kept[0].shape[0], len(kept), kept[-1].shape[1]), np.float32)
        for number, row in enumerate(kept):
            whole[:, number, : row.shape[1]] = row
        return whole

    @property
    def positions_of(self) -> list[int]:
        """The position of each row's token."""
        return [step.at for step in self._trace.steps]

    @cached_property
    def prompt_weights(self) -> Float32 | None:
        """float32 `[num_attention_heads, rows, rows]`: the prompt's tokens but the last; only in `full`."""
        if self._trace._live is not None:
            whole = self._trace._live.evidence.prompt_attention
        else:
            stored = self._trace._document.get("prompt_attention")
            whole = None if stored is None else unpacked(stored["weights"], "attention of the prompt")
        return None if whole is None else whole[self._layer]


class SamplerStep:
    """How one token was chosen, step by step.

    Attributes:
        data: As `sampler` of the document: candidates with what each step made of them.
    """

    def __init__(self, trace: Trace, number: int, data: Mapping[str, Any] | None = None) -> None:
        self._trace, self._number = trace, number
        self.data: Mapping[str, Any] = (
            trace._document["decisions"][number]["sampler"] if data is None else data
        )

    @property
    def chosen(self) -> int:
        """The token."""
        return int(self.data["chosen"])

    @property
    def text(self) -> str:
        """What it says."""
        return next(str(each["text"]) for each in self.data["candidates"] if each["id"] == self.chosen)

    @property
    def candidates(self) -> list[Mapping[str, Any]]:
        """The likeliest tokens, with what each step made of them."""
        return list(self.data["candidates"])

    @property
    def uniform(self) -> float | None:
        """The random number; None if nothing was drawn."""
        number = self.data["uniform"]
        return None if number is None else float(number)

    def what_if(self, **changes: Unpack[SamplingOptions]) -> SamplerStep:
        """The same logits under other settings: exact, and without running the model.

        Args:
            **changes: Settings of `SamplingParams` in place of the run's. At temperature 0 filters have no
                meaning; those of the run are left out there.

        Raises:
            SamplingError: A setting is wrong.
            UsageError: A trace from a file that was not made in `full` detail has not all logits.
        """
        logits = self._trace._logits(self._number)
        if logits is None:
            raise UsageError(
                "a trace from a file has the likeliest candidates, but not all logits",
                remedy="ask the trace before it is saved, or make it with detail='full'",
            )
        run = self._trace._document["run"]
        ids = [token["id"] for token in self._trace._document["tokens"]]
        prompt, output = ids[: run["prompt_length"]], ids[run["prompt_length"] :][: self._number]
        known = {field.name for field in fields(SamplingParams)}
        settings = {name: value for name, value in run["sampling"].items() if name in known}
        settings |= changes
        if settings["temperature"] == 0.0:
            idle = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
            settings |= {name: value for name, value in idle.items() if name not in changes}
        params = SamplingParams.from_options(settings)
        seed = run["seed"] if params.seed is None else params.seed
        chain = follow(logits, params, seed=seed, prompt=prompt, output=output)
        return SamplerStep(self._trace, self._number, describe_chain(chain, self._told, chain.chosen))

    def _told(self, token: int) -> str:
        return self._trace._told(token)

    def __repr__(self) -> str:
        drawn = "greedy" if self.uniform is None else f"u = {self.uniform:.6f}"
        return f"SamplerStep({self._number}: {self.text!r} of {self.data['kept']} left, {drawn})"
