"""Walks through grammars with a model that is all chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boli.engine.constraint import Constraint
from boli.engine.sampling import Sampler, SamplingParams
from boli.text import Tokenizer


def text_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text behind some prompt: no space is dropped from its front."""
    data = b"".join(tokenizer.token_bytes(token) for token in tokens if not tokenizer.is_special(token))
    return data.decode()


def drawn(constraint: Constraint, tokenizer: Tokenizer, seed: int, most: int = 600) -> list[int] | None:
    """The tokens of a model that is all chance; None if it does not come to an end."""
    rng = np.random.default_rng(seed)
    closers = [t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t) in {b'"', b"}", b"]", b","}]
    size = constraint.vocab_size
    sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), (), constraint)
    tokens: list[int] = []
    for position in range(most):
        logits = rng.normal(0.0, 2.0, size).astype(np.float32)
        logits[closers] += position / 20  # in the end it wants to close
        token = sampler.sample(logits, position).id
        if token in tokenizer.eos_token_ids:
            return tokens
        tokens.append(token)
        if sampler.finished:
            return tokens
    return None


def drawn_text(constraint: Constraint, tokenizer: Tokenizer, seed: int) -> str:
    tokens = drawn(constraint, tokenizer, seed)
    assert tokens is not None
    return text_of(tokenizer, tokens)
