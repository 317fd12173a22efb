"""llama.cpp through the C functions that llama-cpp-python gives, as `llama-bench` uses them.

Needs only llama-cpp-python and NumPy. One context with flash attention and one without.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np
from serving import serve, token

_BATCH = 512
_WARM_UP = 16
# What the processor has, by Linux's names, and what llama.cpp calls it when it was built for it.
_FLAGS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx_vnni": "AVX_VNNI",
    "amx_int8": "AMX_INT8",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}


class Context:
    """One llama_context."""

    def __init__(self, model: Any, *, threads: int, sequences: int, positions: int, flash: bool) -> None:
        settings = api.llama_context_default_params()
        # A sequence has a stream of its own, as in llama-batched-bench.
        settings.n_ctx = sequences * -(-positions // 256) * 256
        settings.n_seq_max = sequences
        settings.n_batch = settings.n_ubatch = _BATCH
        settings.n_threads = settings.n_threads_batch = threads
        settings.flash_attn_type = (
            api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        settings.no_perf = True
        self.context = api.llama_init_from_model(model, settings)
        if not self.context:
            raise RuntimeError("llama_init_from_model failed")
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(_BATCH, 0, 1)
        self.sequences, self.filled = sequences, 0
        self.prefill(_WARM_UP)

    def feed(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Tokens as `(id, position, sequence, whether its logits are wanted)`."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for n, (token_id, position, sequence, wanted) in enumerate(rows):
            batch.token[n], batch.pos[n], batch.logits[n] = token_id, position, wanted
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
        if api.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")

    def prefill(self, count: int, sequence: int = 0) -> float:
        """Seconds for the first positions of a sequence; forgets what it held."""
        api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        start = time.perf_counter()
        for first in range(0, count, _BATCH):
            end = min(first + _BATCH, count)
            self.feed([(token(n), n, sequence, n == count - 1) for n in range(first, end)])
        api.llama_synchronize(self.context)
        return time.perf_counter() - start

    def decode(self, steps: int, depth: int) -> float:
        """Seconds to decode with all sequences, behind `depth` positions."""
        while self.filled < self.sequences and depth:
            self.prefill(depth, self.filled)
            self.filled += 1
        for sequence in range(self.sequences):
            api.llama_memory_seq_rm(self.memory, sequence, depth, -1)
        start = time.perf_counter()
        for step in range(steps):
            self.feed([(token(step + s), depth + step, s, True) for s in range(self.sequences)])
            api.llama_synchronize(self.context)
        return time.perf_counter() - start

    def logits(self, ids: list[int]) -> np.ndarray:
        """float32 `[len(ids), vocab_size]`."""
        api.llama_memory_seq_rm(self.memory, 0, -1, -1)
        model = api.llama_get_model(self.context)
        size, rows = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model)), []
        for first in range(0, len(ids), _BATCH):
            part = ids[first : first + _BATCH]
            self.feed([(token_id, first + n, 0, True) for n, token_id in enumerate(part)])
            for n in range(len(part)):
                found = api.llama_get_logits_ith(self.context, n)
                rows.append(np.ctypeslib.as_array(found, (size,)).copy())
        return np.stack(rows)

    def close(self) -> None:
        """Frees it."""
        api.llama_batch_free(self.batch)
        api.llama_free(self.context)


class Worker:
    """One model, in two contexts.

    Args:
        threads: How many threads compute.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.contexts: dict[str, Context] = {}
        self.silent = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.silent, ctypes.c_void_p(0))
        api.llama_backend_init()

    def open(self, path: str, sequences: int, positions: int) -> dict[str, Any]:
        """Loads a model, and makes a context with and one without flash attention.

        Raises:
            RuntimeError: This llama.cpp was not built for this processor, or cannot load the file.
        """
        missing = lacking()
        if missing:
            raise RuntimeError(
                f"this llama.cpp does not use {', '.join(missing)}, which the processor has; build it here: "
                "CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python"
            )
        settings = api.llama_model_default_params()
        settings.n_gpu_layers = 0
        model = api.llama_model_load_from_file(path.encode(), settings)
        if not model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        for name, flash in (("off", False), ("on", True)):
            self.contexts[name] = Context(
                model, threads=self.threads, sequences=sequences, positions=positions, flash=flash
            )
        return {"version": f"llama-cpp-python {api.__version__}", "build": system()}

    def prefill(self, count: int, flash: str) -> float:
        """Tokens a second of one prompt."""
        self.contexts[flash].filled = 0  # what a decoding had put there is gone
        return count / self.contexts[flash].prefill(count)

    def decode(self, steps: int, depth: int, sequences: int, flash: str) -> float:
        """Tokens a second of all sequences, behind `depth` positions that are filled once."""
        return steps * sequences / self.contexts[flash].decode(steps, depth)

    def logits(self, ids: list[int], path: str, flash: str) -> None:
        """Writes the logits of a text."""
        np.save(path, self.contexts[flash].logits(ids))

    def quantize(self, source: str, target: str, form: str) -> None:
        """Writes a model in another form; from a quantized one, if it has to be."""
        settings = api.llama_model_quantize_default_params()
        settings.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{form}")
        settings.nthread, settings.allow_requantize = self.threads, True
        if api.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)):
            raise RuntimeError(f"llama.cpp could not quantize {source} to {form}")


def system() -> str:
    """What llama.cpp says it was built with."""
    return str(api.llama_print_system_info().decode().strip(" |"))


def lacking() -> list[str]:
    """Instruction sets that the processor has and this build does not use.

    Raises:
        RuntimeError: It uses AMX in a comparison without.
    """
    built = {part.split("=")[0].strip() for part in system().split(":", 1)[-1].split("|") if "= 1" in part}
    without_amx = "PEERS_WITHOUT_AMX" in os.environ
    if without_amx and "AMX_INT8" in built:
        raise RuntimeError("this llama.cpp uses AMX; name a build without it in LLAMA_CPP_LIB_PATH")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    has = set(flags.split()) - ({"amx_int8"} if without_amx else set())
    return [name for flag, name in _FLAGS.items() if flag in has and name not in built]


serve(Worker(int(sys.argv[1])))
