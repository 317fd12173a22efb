"""The same tokens through two models: where a number format changes what is said, and what it saves.

Both traces are of the same ids. The second model is never asked to go its own way: at each decision it reads
what the first one said, and is asked what it would have said there. So decisions can be held against each
other one by one, even behind the first that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boli.engine.batch import Float32
from boli.errors import UsageError
from boli.trace.arrays import packed

if TYPE_CHECKING:
    from boli.trace.api import Trace
    from boli.trace.looking import Step

Float64 = NDArray[np.float64]
Document = Mapping[str, Any]
Entry = dict[str, Any]


def compare(first: Trace, second: Trace) -> Entry:
    """Holds two traces of the same tokens against each other.

    Args:
        first: Of the model that generated the tokens.
        second: Of the same tokens in another model.

    Returns:
        The section `compare` of the first trace's document. `kl` is KL(first ‖ second) in nats, over the
        whole vocabulary and before the sampler. `cosine` is that of the two residual streams after each
        layer, float32 `[decisions, layers]`; null if the models have other shapes.

    Raises:
        UsageError: They are of different tokens or vocabularies, or were read from files, which do not
            hold the logits.
    """
    documents = first.document(), second.document()
    _check_same(*documents)
    decisions: list[Entry] = []
    apart: list[int] = []
    for number, (mine, yours) in enumerate(zip(first.steps, second.steps, strict=True)):
        logits, others = _logits(mine), _logits(yours)
        if logits.size != others.size:
            raise UsageError(
                "the two models have different vocabularies, so their tokens cannot be compared",
                remedy="compare two formats of one model",
            )
        would = second.sampler[number]
        if would.chosen != mine.token:
            apart.append(number)
        decisions.append(
            {
                "kl": divergence(logits, others),
                "chosen": would.chosen,
                "text": would.text,
                "probability": [_probability(row, mine.token) for row in (logits, others)],
                "rank": int((others > others[mine.token]).sum()),
            }
        )
    return {
        "model": documents[1]["model"],
        "bytes": [document["model"]["bytes"] for document in documents],
        "bytes_per_token": [_read(document) for document in documents],
        "kv_bytes": [document["decisions"][-1]["kv"]["bytes_used"] for document in documents],
        "seconds_per_token": [_pace(document) for document in documents],
        "first_divergent": apart[0] if apart else None,
        "decisions": decisions,
        "cosine": _cosines(first, second),
    }


def divergence(first: Float32, second: Float32) -> float:
    """KL(first ‖ second) of the distributions that two rows of logits stand for, in nats.

    Args:
        first: float32 `[vocab_size]`.
        second: The same.
    """
    mine, yours = _log_softmax(first), _log_softmax(second)
    # Rounding can leave a hair below zero where both are the same.
    return max(0.0, float((np.exp(mine) * (mine - yours)).sum()))


def cosine(first: Float32, second: Float32) -> Float64:
    """Cosines of the angles between the rows of two arrays, `[..., size]` → `[...]`."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(axis=-1) / np.maximum(lengths, np.finfo(np.float64).tiny))


def _check_same(first: Document, second: Document) -> None:
    ids = [[token["id"] for token in document["tokens"]] for document in (first, second)]
    if ids[0] != ids[1] or first["run"]["prompt_length"] != second["run"]["prompt_length"]:
        raise UsageError("the two traces are of different tokens, so they cannot be compared")


def _logits(step: Step) -> Float32:
    logits = step.value("logits")
    if logits is None:
        raise UsageError(
            "this trace was read from a file, which has not all logits",
            remedy="compare traces in the program that made them, or make them with detail='full'",
        )
    return logits


def _cosines(first: Trace, second: Trace) -> Entry | None:
    rows = []
    for mine, yours in zip(first.steps, second.steps, strict=True):
        one, other = mine.value("residual"), yours.value("residual")
        if one is None or other is None or one.shape != other.shape:
            return None
        rows.append(cosine(one, other))
    return packed(np.stack(rows), "f4") if rows else None


def _pace(document: Document) -> float | None:
    """Seconds of a step that read one token, in the middle of all."""
    steps = [each["time"]["total"] for each in document["decisions"] if each["time"]["rows"] == 1]
    return float(median(steps)) if steps else None


def _read(document: Document) -> int:
    """Bytes of weights that one token reads: all but the embedding, or the embedding as the head."""
    sizes = {each["name"]: int(each["bytes"]) for each in document["weights"]}
    return sum(
        sizes[each["tied_to"] or each["name"]]
        for each in document["weights"]
        if each["role"] not in {"embedding", "position_embedding"}
    )


def _probability(logits: Float32, token: int) -> float:
    return float(f"{np.exp(_log_softmax(logits)[token]):.6g}")


def _log_softmax(logits: Float32) -> Float64:
    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
