"""What a run of boli's own engine takes, in the categories of its ledger.

Weights, KV cache and workspace are known to the byte before anything is loaded; the tokenizer and
the interpreter are measured values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

from boli.errors import UnsupportedModel, UsageError
from boli.weigh.amount import Amount, amount, total
from boli.weigh.kv import weigh_kv
from boli.weigh.model import Model

DEFAULT_CONTEXT: Final = 8192
MOST_THREADS: Final = 4096

# Resident bytes of the process before a model is loaded, with the libraries that loading brings in (the
# tokenizer's, LLVM's linker): 90.8 and 90.9 MB. Private bytes that a tokenizer adds: SmolLM2 (49,152
# tokens) 16.2 MB, Gemma 3 (262,144 tokens) 56.1 MB. Python 3.11 on Linux, 2026-11-22.
RUNTIME: Final = 90_900_000
TEXT: Final = 7_000_000
TEXT_PER_TOKEN: Final = 188


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """A run of boli's engine on processors.

    Attributes:
        categories: Bytes by the names of the ledger: `weights/Q4_1`, …, `kv_cache`, `workspace`, `text`,
            `runtime`.
        workspace: What the workspace is made of.
        logits_row: What each answer in a step adds to the workspace, the first time there are so many.
        packed: Bytes of each weight by its blueprint's name, as it lies in memory and is read.
        context: Positions of a request at most.
        threads: That share a step.
        not_modelled: What is left out.
    """

    categories: Mapping[str, Amount]
    workspace: Mapping[str, int]
    logits_row: Amount
    packed: Mapping[str, int]
    context: int
    threads: int
    not_modelled: tuple[str, ...] = (
        "pages of the model's file that the system keeps in memory as long as it has room",
        "what the compiler holds in a run that has to compile kernels",
    )

    @cached_property
    def total(self) -> Amount:
        """All categories."""
        return total(self.categories)

    @cached_property
    def weights(self) -> Amount:
        """The categories of weights."""
        parts = {name: each for name, each in self.categories.items() if name.startswith("weights/")}
        return total(parts)


class Loaded:
    """A model as boli's engine would load it, to be asked for several contexts.

    Args:
        model: The model.
        threads: That compute; all usable cores of this machine if left out.
        types: Number format of each weight by its blueprint's name; as they are stored if left out.
        kv_dtype: What the cache holds; BF16 if left out.

    Attributes:
        packed: Bytes of each weight, as it lies in memory.
        threads: That share a step.

    Raises:
        UnsupportedModel: boli does not run the model, or does not compute with a format.
        UsageError: The number of threads is out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        threads: int | None = None,
        types: Mapping[str, str] | None = None,
        kv_dtype: str | None = None,
    ) -> None:
        if model.not_runnable:
            raise UnsupportedModel(
                f"{model.name}: what boli would take cannot be told", cause=model.not_runnable,
                remedy="see what its weights and its cache take by themselves",
            )  # fmt: skip
        from boli.cpu.layouts import LAYOUTS  # noqa: PLC0415  # for this account only
        from boli.machine import usable_cores  # noqa: PLC0415
        from boli.weigh import engine_sizes  # noqa: PLC0415

        self._model, self._sizes, self._kv_dtype = model, engine_sizes, kv_dtype
        self.threads = threads or usable_cores()
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"threads must be a whole number from 1 to {MOST_THREADS:,}, not {threads!r}")
        kinds = model.stored if types is None else types
        wanted = {kinds.get(weight.name, model.dtype) for weight in model.blueprint if len(weight.shape) > 1}
        if unknown := wanted - LAYOUTS.keys():
            raise UnsupportedModel(
                f"{model.name}: boli does not run {', '.join(sorted(unknown))}",
                remedy=f"choose a format of {', '.join(LAYOUTS)}",
            )
        self._matrices = engine_sizes.packed_matrices(
            model.blueprint, lambda weight: kinds.get(weight.name, model.dtype)
        )
        self.packed: dict[str, int] = {}
        by_type: dict[str, int] = {}
        for matrix in self._matrices:
            size = matrix.bytes
            self.packed[matrix.weight.name] = self.packed.get(matrix.weight.name, 0) + size
            by_type[matrix.format] = by_type.get(matrix.format, 0) + size
        for weight in model.blueprint:
            if len(weight.shape) == 1:
                self.packed[weight.name] = 4 * weight.shape[0]
        self._fixed = {
            f"weights/{kind}": amount("bytes", "packed", packed=size, note="padded to 32 rows and 32 columns")
            for kind, size in by_type.items()
        }
        vectors = engine_sizes.vector_bytes(model.blueprint)
        self._fixed["weights/F32 vectors"] = amount(
            "bytes", "vectors", vectors=vectors, note="norms and biases"
        )
        self._fixed["text"] = amount(
            "bytes", "base + vocab_size · entry", certainty="calibrated",
            base=TEXT, vocab_size=model.blueprint.config.vocab_size, entry=TEXT_PER_TOKEN,
        )  # fmt: skip
        self._fixed["runtime"] = amount(
            "bytes",
            "interpreter",
            certainty="calibrated",
            interpreter=RUNTIME,
            note="Python, boli and libraries",
        )

    @property
    def logits_row(self) -> Amount:
        """Logits of one answer in a step."""
        return amount("bytes", "row", row=self._sizes.logits_bytes(self._model.blueprint.config))

    def workspace(self, context: int) -> dict[str, int]:
        """Bytes of the workspace by what they are for, after loading."""
        rows = self._sizes.defaults().max_rows
        config = self._model.blueprint.config
        return self._sizes.workspace(
            config, self._matrices, threads=self.threads, max_rows=rows, context=context
        )

    def categories(self, context: int, requests: int) -> dict[str, Amount]:
        """Bytes by the ledger's names, after loading."""
        parts = {name: amount("bytes", "size", size=size) for name, size in self.workspace(context).items()}
        kv = weigh_kv(self._model, context=context, requests=requests, dtype=self._kv_dtype, engine="boli")
        return {
            **self._fixed,
            "kv_cache": kv.bytes,
            "workspace": total(parts, note=f"with {self.threads} threads"),
        }


def weigh_run(
    model: Model,
    *,
    context: int | None = None,
    requests: int = 1,
    threads: int | None = None,
    types: Mapping[str, str] | None = None,
    kv_dtype: str | None = None,
) -> RunAccount:
    """What boli's engine takes after it has loaded a model.

    Args:
        model: The model.
        context: Positions of a request; what the model can do, at most 8,192, if left out, which is
            what boli takes where there is memory enough.
        requests: Full contexts that the cache must hold at once; boli itself makes room for one.
        threads: That compute; all usable cores of this machine if left out.
        types: Number format of each weight by its blueprint's name, such as `FormatBytes.types`; as
            they are stored if left out.
        kv_dtype: What the cache holds; BF16 if left out.

    Raises:
        UnsupportedModel: boli does not run the model, or does not compute with a format.
        UsageError: A size is out of range, or boli has no such cache.
    """
    loaded = Loaded(model, threads=threads, types=types, kv_dtype=kv_dtype)
    context = context or min(model.blueprint.config.max_position_embeddings, DEFAULT_CONTEXT)
    return RunAccount(
        categories=MappingProxyType(loaded.categories(context, requests)),
        workspace=MappingProxyType(loaded.workspace(context)),
        logits_row=loaded.logits_row,
        packed=MappingProxyType(loaded.packed),
        context=context,
        threads=loaded.threads,
    )
