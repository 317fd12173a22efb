"""transformers with torch in bfloat16, from a GGUF file that it turns into floats.

Needs transformers, torch, accelerate and gguf.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from serving import serve, token


class Worker:
    """One model, one sequence at a time.

    Args:
        threads: How many threads compute.
    """

    model: Any

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def open(self, path: str, sequences: int, positions: int) -> dict[str, Any]:
        """Loads a model."""
        if sequences != 1:
            raise RuntimeError("this worker decodes one sequence")
        file = Path(path)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
        ).eval()
        self.prefill(16)
        return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}"}

    @torch.inference_mode()
    def prefill(self, count: int) -> float:
        """Tokens a second of one prompt."""
        ids = _ids(0, count)
        start = time.perf_counter()
        self.model(ids, use_cache=True, logits_to_keep=1)
        return count / (time.perf_counter() - start)

    @torch.inference_mode()
    def decode(self, steps: int, depth: int, sequences: int) -> float:
        """Tokens a second behind `depth` positions."""
        cache = self.model(_ids(0, max(depth, 1)), use_cache=True, logits_to_keep=1).past_key_values
        start = time.perf_counter()
        for step in range(steps):
            cache = self.model(_ids(step, step + 1), past_key_values=cache, use_cache=True).past_key_values
        return steps / (time.perf_counter() - start)


def _ids(first: int, end: int) -> Any:
    return torch.tensor([[token(n) for n in range(first, end)]])


serve(Worker(int(sys.argv[1])))
