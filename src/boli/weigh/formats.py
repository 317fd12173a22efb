"""What a model takes in each number format, tensor by tensor.

Two kinds of formats. *Checkpoint* formats are what a folder of safetensors holds: one type for
everything (FP32, FP16), or small numbers with scales for the matrices of the layers, while
embeddings, head, norms and biases stay in 16 bits (FP8, INT8, INT4, NF4). *GGUF recipes* are
llama.cpp's mixtures (`boli.weigh.recipes`), whose bytes are predicted without a file; F32, F16 and
BF16 are such recipes too, with norms in F32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from boli.blueprint.weights import Weight
from boli.errors import UsageError
from boli.weigh.amount import Amount, Certainty, amount, total
from boli.weigh.blocks import nbytes
from boli.weigh.gguf_tensors import GgufTensor, extra_numbers, tensors_of
from boli.weigh.model import Model
from boli.weigh.recipes import (
    CHECKED_FAMILIES,
    IN_BLOCKS_OF_256,
    NEED_IMATRIX,
    OTHER_WITH_IMATRIX,
    QKV_BEFORE_2026,
    RECIPES,
    types_of,
)

Kind = Literal["checkpoint", "gguf"]

ALIGNMENT: Final = 32  # of the tensors in a GGUF file that does not say otherwise


class TensorBytes(NamedTuple):
    """One tensor in a format.

    Attributes:
        name: The tensor's, in the file if it is one of GGUF.
        weight: The blueprint's name of the weight that it holds or is a part of.
        shape: The outermost dimension first.
        type: What its numbers are, such as "Q6_K" or "INT4-g128".
        bytes: With scales, without padding.
    """

    name: str
    weight: str
    shape: tuple[int, ...]
    type: str
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of one number, scales included."""
        return 8 * self.bytes / prod(self.shape)


@dataclass(frozen=True)
class FormatBytes:
    """A model in one format.

    Attributes:
        name: Such as "BF16", "INT4-g128" or "Q4_K_M".
        kind: What it is a format of.
        tensors: Every tensor, tied ones once.
        certainty: "exact", or "assumed" of a recipe that was not held against a file of the family.
        extra: Bytes of tensors that GGUF adds to the weights.
        header: Bytes in front of the tensors, if the model came from a GGUF file; then a file of any
            other recipe has the same.
        notes: What a reader should know.
    """

    name: str
    kind: Kind
    tensors: tuple[TensorBytes, ...]
    certainty: Certainty = "exact"
    extra: int = 0
    header: int | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def by_type(self) -> Mapping[str, int]:
        """Bytes of each type, the largest first."""
        sums: dict[str, int] = {}
        for tensor in self.tensors:
            sums[tensor.type] = sums.get(tensor.type, 0) + tensor.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @cached_property
    def bytes(self) -> Amount:
        """Bytes of all weights."""
        parts = {
            kind: amount("bytes", "bytes", certainty=self.certainty, bytes=size)
            for kind, size in self.by_type.items()
        }
        return total(parts, note="; ".join(self.notes))

    @cached_property
    def bits_per_weight(self) -> Amount:
        """Bits of a number on average."""
        numbers = sum(prod(tensor.shape) for tensor in self.tensors)
        return amount(
            "bits", "8 · bytes / parameters", certainty=self.certainty,
            bytes=self.bytes.value, parameters=max(numbers, 1),
        )  # fmt: skip

    @cached_property
    def file_bytes(self) -> Amount | None:
        """Bytes of the GGUF file: None where its header, mostly the vocabulary, is not known."""
        if self.kind != "gguf" or self.header is None:
            return None
        return amount(
            "bytes", "header + tensors + padding", certainty=self.certainty,
            header=self.header, tensors=self.bytes.value, padding=padding(self.tensors),
            note=f"each tensor is padded to a multiple of {ALIGNMENT} bytes; the header is that of the file",
        )  # fmt: skip

    @cached_property
    def bytes_of(self) -> Mapping[str, int]:
        """Bytes of each weight of the blueprint, by its name."""
        sums: dict[str, int] = {}
        for tensor in self.tensors:
            sums[tensor.weight] = sums.get(tensor.weight, 0) + tensor.bytes
        return sums

    @cached_property
    def types(self) -> Mapping[str, str]:
        """The type of each weight of the blueprint, by its name."""
        return {tensor.weight: tensor.type for tensor in self.tensors}


def padding(tensors: Iterable[TensorBytes]) -> int:
    """Bytes by which tensors grow when each is padded for GGUF."""
    return sum(-tensor.bytes % ALIGNMENT for tensor in tensors)


# --- checkpoint formats -------------------------------------------------------------------------------


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _fp8(rows: int, columns: int) -> int:
    """E4M3 with a float32 for each block of 128 × 128, as DeepSeek-V3 is stored."""
    return rows * columns + 4 * _blocks(rows, 128) * _blocks(columns, 128)


def _int8(rows: int, columns: int) -> int:
    """A float32 for each row: LLM.int8(), Dettmers et al. 2022, https://arxiv.org/abs/2208.07339."""
    return rows * columns + 4 * rows


def _int4(group: int) -> Callable[[int, int], int]:
    """A half and a 4-bit zero point for each group: AWQ and GPTQ, https://arxiv.org/abs/2210.17323."""

    def size(rows: int, columns: int) -> int:
        groups = rows * _blocks(columns, group)
        return _blocks(rows * columns, 2) + 2 * groups + _blocks(groups, 2)

    return size


def _nf4(rows: int, columns: int) -> int:
    """A float32 for each 64 numbers: QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314."""
    return _blocks(rows * columns, 2) + 4 * _blocks(rows * columns, 64)


def _nf4_double(rows: int, columns: int) -> int:
    """The same with scales of 8 bits, and a float32 for each 256 of them: double quantization."""
    scales = _blocks(rows * columns, 64)
    return _blocks(rows * columns, 2) + scales + 4 * _blocks(scales, 256)


_WHOLE: Final = {"FP32": "F32", "FP16": "F16"}
_QUANTIZED: Final[Mapping[str, tuple[Callable[[int, int], int], str]]] = MappingProxyType({
    "FP8": (_fp8, "E4M3, a float32 scale for each block of 128 × 128"),
    "INT8": (_int8, "a float32 scale for each row (LLM.int8())"),
    "INT4-g32": (_int4(32), "a half and a 4-bit zero point for each 32 inputs (AWQ, GPTQ)"),
    "INT4-g64": (_int4(64), "a half and a 4-bit zero point for each 64 inputs (AWQ, GPTQ)"),
    "INT4-g128": (_int4(128), "a half and a 4-bit zero point for each 128 inputs (AWQ, GPTQ)"),
    "NF4": (_nf4, "a float32 scale for each 64 numbers (QLoRA)"),
    "NF4-DQ": (_nf4_double, "8-bit scales for each 64 numbers, a float32 for each 256 scales (QLoRA)"),
})  # fmt: skip
CHECKPOINT_FORMATS: Final = (*_WHOLE, *_QUANTIZED)

# Not matrices of the layers: what quantizers leave in 16 bits.
_LEFT: Final = frozenset({
    "embedding", "position_embedding", "token_type_embedding", "head", "router", "shared_router",
    "relative_position_bias", "conv", "embedding_projection", "head_projection", "pooler",
})  # fmt: skip


def _checkpoint(model: Model, name: str) -> FormatBytes:
    def row(weight: Weight) -> TensorBytes:
        matrix = len(weight.shape) > 1 and weight.role not in _LEFT and not weight.role.endswith("bias")
        if name in _QUANTIZED and matrix:
            *several, rows, columns = weight.shape
            size = prod(several) * _QUANTIZED[name][0](rows, columns)
            return TensorBytes(weight.name, weight.name, weight.shape, name, size)
        kind = _WHOLE.get(name, "F16")
        return TensorBytes(weight.name, weight.name, weight.shape, kind, nbytes(weight.shape, kind))

    notes: tuple[str, ...] = ("BF16 takes the same",) if name == "FP16" else ()
    if name in _QUANTIZED:
        notes = (_QUANTIZED[name][1], "embeddings, head, norms, routers and biases stay in 16 bits")
    rows = tuple(row(weight) for weight in model.blueprint if not weight.tied_to)
    return FormatBytes(name, "checkpoint", rows, notes=notes)


# --- GGUF -------------------------------------------------------------------------------------------


def header_bytes(model: Model) -> int | None:
    """Bytes of a GGUF file that are no weights: its header, and tensors that only GGUF has."""
    if model.source != "gguf" or model.file_bytes is None:
        return None
    kinds = model.stored
    sizes = [nbytes(w.shape, kinds.get(w.name, model.dtype)) for w in model.blueprint if not w.tied_to]
    return model.file_bytes - sum(size + -size % ALIGNMENT for size in sizes)


def _gguf(model: Model, name: str, tensors: tuple[GgufTensor, ...], header: int | None) -> FormatBytes:
    rows = []
    for tensor, chosen in zip(tensors, types_of(model, name, tensors), strict=True):
        # Experts that were trained in MXFP4 are left as they are.
        kind = "MXFP4" if model.stored.get(tensor.weight) == "MXFP4" else chosen
        rows.append(TensorBytes(tensor.name, tensor.weight, tensor.shape, kind, nbytes(tensor.shape, kind)))
    checked = model.blueprint.config.family in CHECKED_FAMILIES
    extra = 0 if header else 4 * extra_numbers(model)
    notes = [] if checked else ["llama.cpp's rules, not held against a file of this family"]
    narrow = sum(1 for tensor in tensors if not tensor.plain and tensor.shape[-1] % 256)
    if narrow and name in IN_BLOCKS_OF_256:
        notes.append(f"{narrow} matrices have rows that are no multiple of 256, and get a larger type")
    if name in NEED_IMATRIX:
        notes.append("made with an importance matrix")
    if name in OTHER_WITH_IMATRIX:
        notes.append("with an importance matrix, ffn_down differs in the first eighth of the layers")
    if name in QKV_BEFORE_2026 and any(tensor.place == "qkv" for tensor in tensors):
        notes.append(f"files from before 2026 have {QKV_BEFORE_2026[name]} for attn_qkv in all layers")
    if model.blueprint.prediction:
        notes.append("without the modules that predict further tokens")
    if header is None:
        more = f", and {extra} bytes of rope_freqs" if extra else ""
        notes.append(f"a file has a header besides, mostly the vocabulary{more}")
    certainty: Certainty = "exact" if checked else "assumed"
    return FormatBytes(name, "gguf", tuple(rows), certainty, extra, header, tuple(notes))


ALL_FORMATS: Final = (*CHECKPOINT_FORMATS, *RECIPES)


def weigh_format(model: Model, name: str) -> FormatBytes:
    """The model in one format.

    Raises:
        UsageError: There is no such format.
    """
    return weigh_formats(model, [name])[name]


def weigh_formats(model: Model, names: Iterable[str] | None = None) -> dict[str, FormatBytes]:
    """The model in several formats.

    Args:
        model: The model.
        names: Of `ALL_FORMATS`; all if left out.

    Raises:
        UsageError: There is no such format.
    """
    tensors, header = tensors_of(model), header_bytes(model)
    found: dict[str, FormatBytes] = {}
    for name in ALL_FORMATS if names is None else names:
        if name in CHECKPOINT_FORMATS:
            found[name] = _checkpoint(model, name)
        elif name in RECIPES:
            found[name] = _gguf(model, name, tensors, header)
        else:
            raise UsageError(
                f"there is no number format {name!r}", remedy=f"choose from {', '.join(ALL_FORMATS)}"
            )
    return found
