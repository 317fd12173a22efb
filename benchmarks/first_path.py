"""How fast the first path is, held against the limit of the machine.

Run on an otherwise idle machine:  python benchmarks/first_path.py [MODEL]

Measures, alternating so that a noisy neighbour hits all alike:
- how fast this machine's memory can be read, with one compiled loop and two threads;
- tokens per second of decoding (128 tokens after a prompt of 16) and of prefill (512 tokens);
- wall time of a whole `boli generate` of 8 tokens, started as a user starts it.
Prints the median, the least and the most of each, and the share of the memory's speed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

import boli
from boli.cpu import compiler

ROUNDS = 7
STREAM_BYTES = 400_000_000


def read_loop() -> Callable[..., int]:
    """Adds up memory, four vectors at a time."""
    from boli.cpu.lanes import add, broadcast
    from boli.cpu.simd import load, store

    def run(start, size):  # type: ignore[no-untyped-def]
        a, b, c, d = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        for at in range(start, start + size, 256):
            a, b = add(a, load(at)), add(b, load(at + 64))
            c, d = add(c, load(at + 128)), add(d, load(at + 192))
        store(start, add(add(a, b), add(c, d)))
        return 0

    return run


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_threads(function: Callable[[int], object], threads: int) -> None:
    """Calls the function in several threads and waits for all."""
    others = [threading.Thread(target=function, args=(n,)) for n in range(1, threads)]
    for thread in others:
        thread.start()
    function(0)
    for thread in others:
        thread.join()


def main() -> None:
    """Measures and prints."""
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    (stream,) = compiler.load([compiler.Unit("benchmark_stream", 2, read_loop)])
    memory = np.ones(STREAM_BYTES, np.uint8)
    part = STREAM_BYTES // 2 // 256 * 256
    figures: dict[str, list[float]] = {"read_gb_per_s": [], "decode": [], "prefill": [], "whole_run_s": []}
    command = [sys.executable, "-m", "boli", "generate", "The capital of France is", "-m", model]
    command += ["--max-tokens", "8"]
    with boli.load(model, speculation="off") as llm:
        weights = sum(size for name, size in llm.ledger.totals().items() if name.startswith("weights"))
        text = llm.tokenizer.encode("Once upon a time there was a glass house on a hill. ")[:16]
        for number in range(ROUNDS):
            # Begins with another token each time: nothing of it is in the prefix cache.
            prompt = [1000 + number, *text[1:]]
            long = [2000 + number, *(text * 32)[1:512]]
            taken = seconds(lambda: in_threads(lambda n: stream(memory.ctypes.data + n * part, part), 2))
            figures["read_gb_per_s"].append(2 * part / taken / 1e9)
            answer = llm.generate(prompt, max_tokens=128, ignore_eos=True)
            figures["decode"].append(answer.timings.decode_tokens_per_s)
            figures["prefill"].append(llm.generate(long, max_tokens=1).timings.prefill_tokens_per_s)
            figures["whole_run_s"].append(
                seconds(lambda: subprocess.run(command, capture_output=True, check=True))
            )
    report = {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in figures.items()
    }
    share = report["decode"]["median"] * weights / (report["read_gb_per_s"]["median"] * 1e9)
    print(
        json.dumps(
            {"model": model, "weight_bytes": weights, "share_of_read_speed": share, **report}, indent=1
        )
    )


if __name__ == "__main__":
    main()
