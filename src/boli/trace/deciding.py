"""The entries of `decisions`: how each token of the answer came about."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from boli.engine.sampling import Sampler, largest
from boli.trace.arrays import packed
from boli.trace.chain import Chain, log_normalizer
from boli.trace.facts import kv_bytes_per_position
from boli.trace.lens import Guess, entropy, named
from boli.trace.numerals import exact, or_null, short
from boli.trace.sieve import describe_chain
from boli.trace.words import teller
from boli.weigh.engine_sizes import page_bytes

if TYPE_CHECKING:
    from boli.engine.batch import Float32
    from boli.engine.llm import LLM
    from boli.engine.record import RunRecord
    from boli.trace.observing import Evidence, Seen

NAMED: Final = 8  # likeliest tokens under the model

Entry = dict[str, object]


class Deciding:
    """Writes the entries of `decisions`."""

    def __init__(self, llm: LLM, run: RunRecord, evidence: Evidence, page_size: int) -> None:
        self._llm, self._run, self._evidence, self._page_size = llm, run, evidence, page_size
        self._config = llm.blueprint.config
        self._told = teller(llm.tokenizer)
        self._position_bytes = round(
            self._config.num_hidden_layers * kv_bytes_per_position(self._config, llm.kv_cache_type)
        )
        self._page_bytes = llm.ledger.totals().get("kv_cache", 0) // llm._engine.runner.num_pages
        self._sampler = Sampler(run.sampling, run.token_ids[: run.prompt_length])
        self._sampler.seed = run.seed

    def __call__(self, number: int, seen: Seen, chain: Chain) -> Entry:
        """The entry of one decision."""
        run, logits, token = self._run, seen.logits, self._run.generated[number]
        highest, norm = log_normalizer(logits)
        recorded = None if run.logprobs is None else run.logprobs[number]
        likely = largest(logits, NAMED)
        entry: Entry = {
            "at": seen.at,
            "token": token,
            "text": self._told(token),
            "logit": exact(logits[token]),
            "logprob": float(logits[token]) - highest - norm,
            "rank": int((logits > logits[token]).sum() + (logits[:token] == logits[token]).sum()),
            "entropy": short(entropy(logits)),
            "recorded": {"logit": exact(run.logits[number]), "logprob": or_null(recorded)},
            "top": [
                {
                    "id": int(each),
                    "text": self._told(int(each)),
                    "logit": exact(logits[each]),
                    "probability": short(math.exp(float(logits[each]) - highest - norm)),
                }
                for each in likely
            ],
            "lens": self._lens(seen),
            "norms": _norms(seen),
            "attention": None,
            "sampler": describe_chain(chain, self._told, token),
            "kv": self._kv(seen.at + 1),
            "time": self._time(number, seen),
        }
        if seen.attention is not None:
            weights = packed(seen.attention, "f4" if self._full else "u1")
            entry["attention"] = {"first_position": 0, "weights": weights}
        if self._full:
            values = {name: packed(each, "f4") for name, each in seen.values.items()}
            entry["values"] = values | {"logits": packed(logits, "f4")}
        return entry

    @property
    def _full(self) -> bool:
        return self._evidence.prompt_attention is not None

    def _lens(self, seen: Seen) -> Entry:
        lens = seen.lens
        top = [_rounded(guesses) for guesses in lens.top]
        shares = [short(share, 4) for share in lens.probability]
        # What comes behind the layers is what the last one says, listed once more.
        return {
            "top": [named(guesses, self._told) for guesses in (*top, top[-1])],
            "rank": [*lens.rank, lens.rank[-1]],
            "probability": [*shares, shares[-1]],
            "first_leads": lens.first_leads,
        }

    def _kv(self, positions: int) -> Entry:
        size = self._page_size
        pages = self._evidence.pages[: -(-positions // size)]
        windows = {self._config.window_of(layer) for layer in range(self._config.num_hidden_layers)} - {None}
        skipped = max((max(0, positions - (window or 0)) // size for window in windows), default=0)
        predicted = page_bytes(self._config, self._llm.kv_cache_type) * len(pages)
        return {
            "positions": positions,
            "pages": pages,
            "shared": self._run.reused_tokens // size,
            "evicted": self._evidence.evicted,
            "skipped": skipped,
            "bytes_used": positions * self._position_bytes,
            "bytes_allocated": len(pages) * self._page_bytes,
            "bytes_predicted": predicted,
        }

    def _time(self, number: int, seen: Seen) -> Entry:
        start = time.perf_counter()
        self._sampler.sample(seen.logits, number)
        sampling = time.perf_counter() - start
        return {
            "total": short(seen.total),
            "rows": seen.rows,
            "embedding": short(seen.other.get("embedding", 0.0)),
            "head": short(seen.other.get("head", 0.0)),
            "sampling": short(sampling),
            "layers": [[short(each, 4) for each in layer] for layer in seen.seconds.tolist()],
        }


def _norms(seen: Seen) -> Entry:
    """Lengths of the vectors that flow through the layers."""
    values = seen.values

    def length(vectors: Float32) -> list[float]:
        return [short(float(each), 5) for each in np.linalg.norm(vectors.astype(np.float64), axis=-1)]

    return {
        "residual": length(np.vstack([values["embedding"][None], values["residual"]])),
        "attention_branch": length(values["attention_branch"]),
        "mlp_branch": length(values["mlp_branch"]),
    }


def _rounded(guesses: Sequence[Guess]) -> list[Guess]:
    return [Guess(guess.id, short(guess.probability, 4)) for guess in guesses]
