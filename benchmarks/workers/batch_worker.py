"""The engine without a server: a worker that answers the same questions in one batch.

For `serve.py`, which measures what the server adds to it.
"""

from __future__ import annotations

import sys
import time

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

    def open(self, path: str, context: int) -> None:
        """Loads a model."""
        self.llm = boli.load(path, threads=self.threads, context=context)

    def batch(self, texts: list[str], max_tokens: int, seed: int) -> dict[str, float]:
        """Answers all at once; from text to text, as a server does.

        Returns:
            Generated tokens, and seconds.
        """
        start = time.perf_counter()
        prompts = [self.llm.render([{"role": "user", "content": text}]) for text in texts]
        answers = self.llm.generate(
            prompts, max_tokens=max_tokens, temperature=0.8, seed=seed, ignore_eos=True
        )
        seconds = time.perf_counter() - start
        return {"tokens": sum(len(answer.token_ids) for answer in answers), "seconds": seconds}


serve(Worker(int(sys.argv[1])))
