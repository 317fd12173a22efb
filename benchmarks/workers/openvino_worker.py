"""OpenVINO GenAI on the processor, from a GGUF file. Needs only openvino-genai and NumPy."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from serving import serve, token


class Worker:
    """One model, one sequence at a time.

    Args:
        threads: How many threads compute.
    """

    pipeline: Any

    def __init__(self, threads: int) -> None:
        self.threads, self.calls = threads, 0

    def open(self, path: str, sequences: int, positions: int) -> dict[str, Any]:
        """Loads a model."""
        if sequences != 1:
            raise RuntimeError("this worker decodes one sequence")
        self.pipeline = genai.LLMPipeline(
            path, "CPU", INFERENCE_NUM_THREADS=self.threads, PERFORMANCE_HINT="LATENCY"
        )
        self._generate(16, 4)
        return {"version": f"openvino-genai {genai.__version__}"}

    def prefill(self, count: int) -> float:
        """Tokens a second of one prompt, with the choice of its first token."""
        start = time.perf_counter()
        self._generate(count, 1)
        return count / (time.perf_counter() - start)

    def decode(self, steps: int, depth: int, sequences: int) -> float:
        """Tokens a second behind a prompt, by the engine's own count of the time between tokens."""
        result = self._generate(max(depth, 1), steps + 1)
        return float(1000 / result.perf_metrics.get_tpot().mean)

    def _generate(self, prompt: int, new: int) -> Any:
        """Greedy, without an end. It keeps what it has seen before, so each prompt is a new one."""
        self.calls += 1
        ids = np.array([[token(self.calls + n) for n in range(prompt)]], np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        settings = genai.GenerationConfig()
        settings.max_new_tokens, settings.min_new_tokens = new, new
        settings.ignore_eos, settings.do_sample = True, False
        return self.pipeline.generate(inputs, settings)


serve(Worker(int(sys.argv[1])))
