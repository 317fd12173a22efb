"""Weighing a model: every byte before the download, each number with its formula.

    account = boli.weigh("llama-3.1-8b", context=8192, device="RTX 3060 12GB")
    account.weights.parameters.value       # 8030261248
    account.kv.bytes.explain()             # 32 · …
    account.to_json()

The package can be called: `boli.weigh` is this package and that function. Accounts flow one way:

    name, file or shapes ─▶ Model ─▶ weights, formats, kv, run, speed, training ─▶ Account ─▶ views, pictures
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boli.weigh.account import Account

__all__ = ["weigh"]


def weigh(
    model: str | Path = "",
    *,
    context: int | None = None,
    requests: int = 1,
    device: str | None = None,
    weights: str | None = None,
    kv_dtype: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    training: Mapping[str, object] | None = None,
    **shapes: object,
) -> Account:
    """Weighs a model without loading it, and without a network if boli knows it.

    Args:
        model: A name of the catalogue, a `config.json`, a folder, a `.gguf` or `.safetensors` file,
            `hf:org/name`; or nothing, and shapes.
        context: Positions of each request; the model's own length, 8,192 at most, if left out.
        requests: How many at once.
        device: A machine of the catalogue such as "RTX 3060 12GB", "this" to measure this one, or
            nothing for this one's memory.
        weights: Number format of the weights, such as "Q4_K_M"; as they are stored if left out.
        kv_dtype: Number format of the KV cache.
        engine: Whose KV cache: "boli", "llama.cpp", "vllm", "transformers", or "model" for what any
            engine must keep. boli's if it runs the model, else "model".
        threads: That boli would compute with.
        training: Options of `boli.weigh.training.training`, such as `{"zero": 3, "devices": 64}`.
        **shapes: Sizes by their names in config.json, in place of the model's own or alone.

    Returns:
        The account.

    Raises:
        ModelNotFound: Nothing answers to the name; names the nearest.
        UsageError: A value makes no sense.
        UnsupportedModel: The architecture is unknown.
        CorruptFile: A file or a configuration is damaged, or contradicts itself.
    """
    from boli.weigh.account import Question, answer  # noqa: PLC0415  `import boli.weigh` costs nothing

    return answer(
        Question(
            model=str(model),
            context=context,
            requests=requests,
            device=device,
            weights=weights,
            kv_dtype=kv_dtype,
            engine=engine,
            threads=threads,
            training=training or {},
            shapes=shapes,
        )
    )


class _Callable(ModuleType):
    """A package that is also its one function: `boli.weigh("smollm2")`, whatever was imported before."""

    __call__ = staticmethod(weigh)


sys.modules[__name__].__class__ = _Callable
