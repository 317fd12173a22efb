"""The engine without a server: a worker that answers the same questions, as many at once.

For `serve.py`, which measures what the server adds to it.
"""

from __future__ import annotations

import sys
import time
from collections import deque

from serving import serve

import boli


class Worker:
    """One model.

    Args:
        threads: How many compute.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.llm: boli.LLM

    def open(self, path: str, context: int, kv_cache_bytes: int) -> None:
        """Loads a model."""
        self.llm = boli.load(path, threads=self.threads, context=context, kv_cache_bytes=kv_cache_bytes)

    def in_turn(self, texts: list[str], seeds: list[int], max_tokens: int, streams: int) -> dict[str, float]:
        """Keeps so many streams busy until all questions are answered; from text to text, as a server does.

        Returns:
            Generated tokens, and seconds.
        """
        start = time.perf_counter()
        left = deque(zip(texts, seeds, strict=True))
        running: deque[boli.Stream] = deque()
        tokens = 0
        while left or running:
            while left and len(running) < streams:
                text, seed = left.popleft()
                prompt = self.llm.render([{"role": "user", "content": text}])
                running.append(
                    self.llm.stream(
                        prompt, max_tokens=max_tokens, temperature=0.8, seed=seed, ignore_eos=True
                    )
                )
            stream = running.popleft()
            if next(stream, None) is None:
                tokens += len(stream.completion.token_ids)
            else:
                running.append(stream)
        return {"tokens": tokens, "seconds": time.perf_counter() - start}


serve(Worker(int(sys.argv[1])))
