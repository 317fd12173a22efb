"""A checkpoint whose matrices are rounded to fewer bits while they are loaded.

A step of decoding reads every weight, so its time goes with their bytes: of BF16's, int8 has about half
and int4 a third. What that costs in quality depends on the size of the model; so what is chosen, and why,
is told (`Choice`).

    int8    groups of 32 with a scale: GGUF's Q8_0, 8.5 bits
    int4    groups of 32 with scale and minimum: GGUF's Q4_1, 5 bits
    bf16    float32 becomes BF16; float16 stays, as BF16 has three bits of precision less

Norms, biases and position embeddings stay as they are stored: a step reads little of them. So does a
matrix whose rows are no whole number of groups. Under int4, embedding and head become int8: their errors
go straight into the logits.

What the weights' rounding alone costs a small model, as mean KL in nats over 400 tokens of manuals, with
SmolLM2-135M as it comes out of its Q4_1 file, each weight moved at random within its rounding step so that
the matrices are continuous again: bf16 0.0003, int8 0.002, int4 0.25; plain rounding to Q4_1 0.31; int4
with embedding and head in int4 too 0.37.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from boli.blueprint import Weight
from boli.errors import NumericError, UsageError
from boli.formats.checkpoint import Checkpoint, Matrix
from boli.formats.numbers import dequantize
from boli.formats.quantize import GROUP, quantize
from boli.formats.table import FORMATS, NumberFormat

Weights = Literal["auto", "bf16", "int8", "int4"]
Form = Literal["stored", "bf16", "int8", "int4"]
Bytes = NDArray[np.uint8]

SMALL: Final = 64 << 20  # bytes
LARGE: Final = 3_000_000_000  # parameters
MEMORY_SHARE: Final = 0.75  # of what is free; the KV cache takes up to the rest

_AT_ONCE: Final = 1 << 20  # numbers brought to float32 at a time


@dataclass(frozen=True, slots=True)
class Choice:
    """In which form weights are loaded; as a text, one line for people.

    Attributes:
        form: `stored` means as the files have them.
        reason: Why, in words that can follow the form.
    """

    form: Form
    reason: str

    def __str__(self) -> str:
        return f"{'as stored' if self.form == 'stored' else self.form}: {self.reason}"


def choose_weights(checkpoint: Checkpoint, wanted: str, available: int) -> Choice:
    """Decides in which form a checkpoint's weights are loaded.

    `auto` leaves alone what somebody has chosen already (GGUF files, and whatever is quantized) and what
    is too small to gain. Otherwise it takes int8, which loses next to nothing; int4 from three billion
    parameters on, where a step is long and the loss small, and below them only if int8 does not fit into
    memory: small models lose far more (SmolLM2-1.7B went from a perplexity of 12.3 to 15.5 at 4.5 bits,
    Llama-3-8B from 6.2 to 6.7 in llama.cpp's Q4_1).

    Args:
        checkpoint: The open model.
        wanted: One of `Weights`.
        available: Bytes of memory that are free.

    Raises:
        UsageError: There is no such form; or the weights are quantized already, and `wanted` is not `auto`.
    """
    if wanted not in get_args(Weights):
        names = ", ".join(get_args(Weights))
        raise UsageError(f"there is no form of weights called {wanted!r}", remedy=f"choose one of {names}")
    quantized = Counter(fmt.name for _, fmt in _matrices(checkpoint) if fmt.group_size).most_common(1)
    if wanted != "auto":
        if quantized:
            raise UsageError(
                f"{checkpoint.path.name} cannot become {wanted}: its weights are {quantized[0][0]} already",
                cause="to round twice loses twice, and what the first rounding lost does not come back",
                remedy="ask for no form, or choose a file of the same model in BF16 or F16",
            )
        form = cast("Form", wanted)
        return Choice(form, "as asked" + _exceptions(checkpoint, form))
    if quantized:
        return Choice("stored", f"the weights are {quantized[0][0]} already")
    if checkpoint.format == "gguf":
        return Choice("stored", "a GGUF file is run in the numbers that it was made with")
    return _automatic(checkpoint, available)


def _automatic(checkpoint: Checkpoint, available: int) -> Choice:
    """What `auto` means for floating-point weights in safetensors."""
    size, parameters = matrix_bytes(checkpoint, "stored"), checkpoint.blueprint.parameters
    if size <= SMALL:
        return Choice("stored", f"with {size / 1e6:,.1f} MB, too small to gain by fewer bits")
    int8 = matrix_bytes(checkpoint, "int8")
    billions = f"{parameters / 1e9:,.2f} billion parameters"
    form: Form = "int4"
    if parameters >= LARGE:
        reason = f"with {billions}, fewer bytes are worth some loss; int8 would have next to none"
    elif int8 > available * MEMORY_SHARE:
        reason = (
            f"int8 would take {int8 / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free; "
            f"with {billions}, expect worse answers"
        )
    else:
        form, reason = "int8", f"next to no loss; with {billions}, int4 would give worse answers"
    return Choice(form, reason + _exceptions(checkpoint, form))


def matrix_bytes(checkpoint: Checkpoint, form: Form) -> int:
    """Bytes of all matrices in a form, before they are padded and packed."""
    return sum(
        weight.shape[0] * target_of(weight, stored, form).nbytes(weight.shape[1])
        for weight, stored in _matrices(checkpoint)
    )


def target_of(weight: Weight, stored: NumberFormat, form: Form) -> NumberFormat:
    """What becomes, in a form, of a weight that is stored in some format."""
    if form == "stored" or len(weight.shape) != 2 or stored.group_size:
        return stored
    if form == "bf16":
        return FORMATS["BF16"] if stored.name == "F32" else stored
    if weight.role == "position_embedding" or weight.shape[1] % GROUP:
        return stored
    return FORMATS["Q8_0" if form == "int8" or weight.role in ("embedding", "head") else "Q4_1"]


def requantized(checkpoint: Checkpoint, form: Form) -> Checkpoint:
    """The same checkpoint with its matrices in another form, or itself if none changes.

    Both use the same open files: close one of them when neither is needed.
    """
    changes = any(target_of(weight, stored, form) != stored for weight, stored in _matrices(checkpoint))
    return Requantized(checkpoint, form) if changes else checkpoint


class Requantized(Checkpoint):
    """Reads another checkpoint's files, and rounds matrices when their rows are asked for.

    Nothing is kept: each piece that a packer takes is brought to float32 and rounded in the packer's own
    thread, a few megabytes at a time.
    """

    def __init__(self, source: Checkpoint, form: Form) -> None:
        super().__init__(source.blueprint, source.path, source._files)
        self._form = form

    @property
    def form(self) -> str:
        """What matrices are rounded to."""
        return self._form

    def format_of(self, weight: Weight) -> NumberFormat:
        """What a weight's numbers are rounded to, following `tied_to`."""
        return target_of(self._owner(weight), super().format_of(weight), self._form)

    def matrix(self, weight: Weight) -> Matrix:
        """As `Checkpoint.matrix`; `data` does its work when it is indexed, by a slice or row numbers."""
        stored, target = super().matrix(weight), self.format_of(weight)
        if target == stored.format:
            return stored
        rows = _Rows(f"{self.path.name}: {self._tensor_of[self._owner(weight).name].name}", stored, target)
        return Matrix(target, stored.rows, stored.columns, cast("Bytes", rows), stored.row_order)


class _Rows:
    """Stands for an array uint8 `[rows, target.nbytes(columns)]`."""

    dtype = np.dtype(np.uint8)
    ndim = 2

    def __init__(self, name: str, source: Matrix, target: NumberFormat) -> None:
        self._name, self._source, self._target = name, source, target
        self.shape = (source.rows, target.nbytes(source.columns))

    def __getitem__(self, index: slice | NDArray[np.int32]) -> Bytes:
        stored = self._source.data[index]
        out = np.empty((len(stored), self.shape[1]), np.uint8)
        step = max(1, _AT_ONCE // self._source.columns)
        for start in range(0, len(stored), step):
            part = slice(start, start + step)
            values = dequantize(stored[part], self._source.format, self._source.columns)
            try:
                out[part] = quantize(values, self._target)
            except NumericError as error:
                error.message = f"{self._name}: {error.message}"
                raise
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Bytes:
        return self[:]


def _matrices(checkpoint: Checkpoint) -> list[tuple[Weight, NumberFormat]]:
    """The matrices that are stored, each once, and how."""
    return [
        (weight, checkpoint.format_of(weight))
        for weight in checkpoint.blueprint
        if len(weight.shape) == 2 and not weight.tied_to
    ]


def _exceptions(checkpoint: Checkpoint, form: Form) -> str:
    """Which matrices stay as they are although others change, to be added to a reason."""
    fine = ("BF16",) if form == "bf16" else ()
    stay = [
        stored.name
        for weight, stored in _matrices(checkpoint)
        if target_of(weight, stored, form) == stored and stored.name not in fine
    ]
    if not stay:
        return ""
    why = "BF16 is less precise" if form == "bf16" else "positions, or rows that are no multiple of 32"
    return f"; {len(stay)} matrices stay {' and '.join(sorted(set(stay)))} ({why})"
