"""Ties the tensors of files to the weights of a blueprint.

A checkpoint is a folder as Hugging Face lays it out (`config.json` and safetensors, one file or
shards with an index) or one GGUF file. Opening it checks that every weight is there with its shape
and in a number format that runs; the numbers themselves stay in the mapped files until they are
asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from boli.blueprint import Blueprint, Weight, from_gguf, from_hf_config
from boli.errors import CorruptFile, ModelNotFound, NumericError, UnsupportedModel
from boli.formats.finite import is_finite
from boli.formats.folder import only_gguf, read_config
from boli.formats.gguf import GGUFFile
from boli.formats.numbers import dequantize
from boli.formats.shards import open_safetensors
from boli.formats.table import NumberFormat
from boli.formats.tensor_file import TensorFile, TensorInfo, quoted

# Constants that old files carry along and that no one needs.
HARMLESS: Final = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.(masked_)?bias)|rope_freqs\.weight")
LAYER_PREFIX: Final = re.compile(r"(.*?\b(?:layers|h|blk)\.)\d+\.")


@dataclass(frozen=True)
class Matrix:
    """A matrix `W` of `y = W x`, as it lies in the file.

    Attributes:
        format: How its numbers are written.
        rows: Output features.
        columns: Input features.
        data: uint8 `[rows, format.nbytes(columns)]`, a view of the file where that is possible.
        row_order: int32 `[rows]`; row `i` of the weight is stored row `row_order[i]`. None: in order.
    """

    format: NumberFormat
    rows: int
    columns: int
    data: NDArray[np.uint8]
    row_order: NDArray[np.int32] | None = None


class Checkpoint:
    """A model's files and what they hold. Made by `open_checkpoint`; close it after use.

    Attributes:
        blueprint: What the model is.
        path: The folder or file it came from.
        format: `gguf` or `safetensors`.
        gguf: The open GGUF file, or None.
        folder: The folder with `config.json`, or None.
        tensors: All tensors as stored, in the files' order.
        unused: Names of tensors that no weight needs, such as a vision tower's.
    """

    def __init__(self, blueprint: Blueprint, path: Path, files: Sequence[TensorFile]) -> None:
        self.blueprint = blueprint
        self.path = path
        self.gguf = files[0] if isinstance(files[0], GGUFFile) else None
        self.folder = None if self.gguf else path
        self.format: Literal["gguf", "safetensors"] = "gguf" if self.gguf else "safetensors"
        self._files = files
        self._file_of = {name: file for file in files for name in file.tensors}
        self._weights = {weight.name: weight for weight in blueprint}
        self._tensor_of = {weight.name: self._place(weight) for weight in blueprint if not weight.tied_to}
        self.tensors = [info for file in files for info in file.tensors.values()]
        self.unused = self._leftovers()

    @property
    def files(self) -> list[Path]:
        """The files that weights are read from."""
        return [file.path for file in self._files]

    @property
    def form(self) -> str:
        """What matrices are rounded to on the way, or "" if they are left as they are."""
        return ""

    def format_of(self, weight: Weight) -> NumberFormat:
        """How a weight's numbers are written in the file, following `tied_to`."""
        return self._tensor_of[self._owner(weight).name].format

    def matrix(self, weight: Weight) -> Matrix:
        """The bytes of a two-dimensional weight, following `tied_to`, for a runner to pack.

        GPT-2's safetensors hold it transposed: then this makes a copy.
        """
        weight = self._owner(weight)
        info = self._tensor_of[weight.name]
        data = self._file_of[info.name].data(info.name)
        rows, columns = weight.shape
        if self._transform(weight) == "transpose":
            numbers = data.view(f"V{info.format.block_bytes}").reshape(columns, rows)
            data = np.ascontiguousarray(numbers.T).view(np.uint8)
        data = data.reshape(rows, info.format.nbytes(columns))
        return Matrix(info.format, rows, columns, data, self._row_order(weight))

    def float32(self, weight: Weight) -> NDArray[np.float32]:
        """Any weight in full precision and in its blueprint's shape, following `tied_to`."""
        weight = self._owner(weight)
        if len(weight.shape) == 2:
            matrix = self.matrix(weight)
            values = dequantize(matrix.data, matrix.format, matrix.columns)
        else:
            info = self._tensor_of[weight.name]
            values = dequantize(
                self._file_of[info.name].data(info.name)[None, :], info.format, weight.shape[0]
            )[0]
        order = self._row_order(weight)
        if order is not None:
            values = values[order]
        return values + np.float32(1) if self._transform(weight) == "plus_one" else values

    def vector(self, weight: Weight) -> NDArray[np.float32]:
        """A norm's weight or a bias, float32 `[n]`.

        Raises:
            NumericError: It holds NaN or infinity.
        """
        self.check_finite(weight)
        return self.float32(weight)

    def check_finite(self, weight: Weight) -> None:
        """Looks for NaN and infinity: 0.02 s for 100 MB of a block format.

        Opening does not do this for matrices, because it would read the whole file.

        Raises:
            NumericError: It holds NaN or infinity.
        """
        info = self._tensor_of[self._owner(weight).name]
        if not is_finite(self._file_of[info.name].data(info.name), info.format):
            raise NumericError(
                f"{self.path.name}: {info.name} holds NaN or infinity",
                cause="the file was damaged, or the model broke while it was trained or converted",
                remedy="download it again, or choose another file of the same model",
            )

    def close(self) -> None:
        """Closes the files. Arrays that were views of them must not be used any more."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _owner(self, weight: Weight) -> Weight:
        return self._weights[weight.tied_to] if weight.tied_to else weight

    def _transform(self, weight: Weight) -> str:
        return (weight.gguf if self.gguf else weight.safetensors).transform

    def _row_order(self, weight: Weight) -> NDArray[np.int32] | None:
        """Interleaved pairs of rows, `(0, 1), (2, 3), …` in each head, back to two halves."""
        if self._transform(weight) != "unpermute":
            return None
        rows, head_dim = weight.shape[0], self.blueprint.config.head_dim
        stored = np.arange(rows, dtype=np.int32).reshape(rows // head_dim, head_dim // 2, 2)
        return np.ascontiguousarray(stored.swapaxes(1, 2)).reshape(rows)

    def _place(self, weight: Weight) -> TensorInfo:
        """The tensor that holds a weight, once its shape and format are found right."""
        names = (weight.gguf if self.gguf else weight.safetensors).names
        name = next((name for name in names if name in self._file_of), None)
        if name is None:
            raise CorruptFile(
                f"{self.path.name}: the tensor {' or '.join(names)} is missing",
                cause=f"a {self.blueprint.config.family} model of this configuration needs it",
                remedy="check that all of the model's files are there, and that config.json belongs to them",
            )
        info = self._file_of[name].tensors[name]
        expected = weight.shape[::-1] if self._transform(weight) == "transpose" else weight.shape
        if tuple(info.shape) != expected:
            raise CorruptFile(
                f"{self.path.name}: the tensor {info.name} has shape {list(info.shape)}",
                cause=f"the model's configuration says {list(expected)}",
                remedy="check that the configuration belongs to these weights",
            )
        if not info.format.runnable:
            raise UnsupportedModel(
                f"{self.path.name}: boli does not run {info.format.name}, the type of {info.name}",
                remedy="choose a file with another type of numbers, such as F16, BF16, Q8_0 or Q4_K",
            )
        return info

    def _leftovers(self) -> list[str]:
        """Names that no weight needs; refused where they sit inside a layer that runs."""
        used = {info.name for info in self._tensor_of.values()}
        inside = {match[1] for name in used if (match := LAYER_PREFIX.match(name))}
        unused = [name for name in self._file_of if name not in used and not HARMLESS.fullmatch(name)]
        for name in unused:
            match = LAYER_PREFIX.match(name)
            if match and match[1] in inside:
                raise UnsupportedModel(
                    f"{self.path.name}: boli has no use for the tensor {quoted(name)}",
                    cause=f"a {self.blueprint.config.family} layer has no such weight; leaving it out "
                    "would give wrong text",
                )
        return unused


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a model's files and checks them against its blueprint.

    Args:
        path: A folder with `config.json` and safetensors, a folder with one GGUF file, or a GGUF file.

    Raises:
        ModelNotFound: Nothing is there, or nothing that could be a model.
        UnsafeFile: Its weights are only there as pickles.
        CorruptFile: A file is damaged, or a weight is missing or has the wrong shape.
        UnsupportedModel: A family, a feature or a number format that boli does not run.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() lets PermissionError through
        return _open_folder(path)
    if path.suffix == ".safetensors":
        raise ModelNotFound(
            f"{path} is only a part of a model",
            cause="its configuration and tokenizer are in files beside it",
            remedy=f"give the folder {path.parent}",
        )
    return _open_gguf(path)


def _open_gguf(path: Path) -> Checkpoint:
    file = GGUFFile(path)
    try:
        return Checkpoint(_blueprint_of(file), path, [file])
    except BaseException:
        file.close()
        raise


def _blueprint_of(file: GGUFFile) -> Blueprint:
    kind = file.metadata.get("general.type", "model")
    if kind != "model" or not file.tensors:
        raise UnsupportedModel(
            f"{file.path.name} is not a model",
            cause=f"its general.type is {str(kind)[:40]!r}, and it holds {len(file.tensors)} tensors",
        )
    embedding = file.tensors.get("token_embd.weight")
    return from_gguf(
        file.metadata,
        file.tensors,
        rope_freqs=_rope_freqs(file),
        # Some files pad the embedding beyond the vocabulary; the tensor says what can come out.
        vocab_size=embedding.shape[0] if embedding else None,
    )


def _rope_freqs(file: GGUFFile) -> list[float] | None:
    info = file.tensors.get("rope_freqs.weight")
    if info is None:
        return None
    if info.format.name != "F32" or len(info.shape) != 1:
        raise CorruptFile(f"{file.path.name}: {info.name} is not a vector of F32")
    return [float(value) for value in file.data(info.name).view(np.float32)]


def _open_folder(folder: Path) -> Checkpoint:
    config = folder / "config.json"
    if not config.is_file():
        return _open_gguf(only_gguf(folder))
    # The weights first: if there are only pickles, that is what the reader must hear of.
    files = open_safetensors(folder)
    try:
        return Checkpoint(from_hf_config(read_config(config)), folder, files)
    except BaseException:
        for file in files:
            file.close()
        raise
