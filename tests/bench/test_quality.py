"""The distance between two models' predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boli.bench.quality import compare
from boli.bench.texts import GLASS


def test_it_is_the_mean_divergence() -> None:
    random = np.random.default_rng(0)
    left = random.normal(0, 3, (7, 50)).astype(np.float32)
    right = left + random.normal(0, 0.3, left.shape).astype(np.float32)
    found = compare(left, right)
    p, q = (torch.log_softmax(torch.from_numpy(logits).double(), -1) for logits in (left, right))
    each = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    assert found.mean_kl == pytest.approx(float(each.mean()), rel=1e-9)
    assert found.error == pytest.approx(float(each.std(correction=0)) / 7**0.5, rel=1e-9)
    assert found.max_kl == pytest.approx(float(each.max()), rel=1e-9)
    assert found.same_best == pytest.approx((left.argmax(1) == right.argmax(1)).mean())
    assert found.positions == 7


def test_the_same_model_is_at_no_distance_whatever_is_added_to_its_logits() -> None:
    logits = np.random.default_rng(1).normal(0, 30, (3, 40)).astype(np.float32)
    assert compare(logits, logits).mean_kl == 0
    assert compare(logits, logits + np.float32(1000)).mean_kl == pytest.approx(0, abs=1e-4)
    assert compare(logits, logits).same_best == 1


def test_both_need_the_same_positions() -> None:
    logits = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="shorter"):
        compare(logits, logits[:2])


def test_the_text_is_in_two_languages_from_early_on() -> None:
    assert len(GLASS.split()) > 150
    beginning = GLASS[:450]
    assert sum("a" <= letter <= "z" for letter in beginning) > 100
    assert sum("\u4e00" <= letter <= "\u9fff" for letter in beginning) > 50
