"""The page's sampler against the engine's: the same logits, settings and number give the same token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from boli.engine.params import SamplingParams
from boli.engine.sampling import Distribution, Sampler
from web.conftest import Opener
from web.made_document import make_document
from web.opened import Opened

# What the settings are called in the page, and its sliders.
NAMES = {"temperature": "temperature", "top_k": "topK", "top_p": "topP", "min_p": "minP"}
SLIDERS = {"temperature": "temperature", "top_k": "top-k", "top_p": "top-p", "min_p": "min-p"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document(layers=2, generated=12)


def _logits(sampler: dict[str, Any]) -> npt.NDArray[np.float32]:
    """The stored candidates as a whole vocabulary."""
    logits = np.full(49152, -80.0, np.float32)
    for candidate in sampler["candidates"]:
        logits[candidate["id"]] = candidate["penalised"]
    return logits


def _left(sampler: dict[str, Any], settings: dict[str, float]) -> Distribution:
    params = SamplingParams(**settings, seed=1)  # type: ignore[arg-type]
    return Sampler(params).distribution(_logits(sampler))


def _buckets(opened: Opened) -> dict[int, float]:
    pairs = opened.page.locator("[data-bucket]").evaluate_all(
        "(all) => all.map((one) => [one.dataset.bucket, one.dataset.final])"
    )
    return {int(token): float(final) for token, final in pairs}


SETTINGS: list[dict[str, float]] = [
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.5, "top_k": 7, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.3, "top_k": 20, "top_p": 0.5, "min_p": 0.0},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.1},
    {"temperature": 2.0, "top_k": 50, "top_p": 0.9, "min_p": 0.0},
]


def test_sliders_give_the_sampler_s_buckets(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    for decision in document["decisions"][:4]:
        sampler = decision["sampler"]
        for settings in SETTINGS:
            for name, value in settings.items():
                opened.slide(SLIDERS[name], value)
            left = _left(sampler, settings)
            assert left.ids is not None
            expected = dict(zip(left.ids.tolist(), left.probabilities.tolist(), strict=True))
            shown = _buckets(opened)
            assert list(shown) == list(expected)
            assert list(shown.values()) == pytest.approx(list(expected.values()), rel=1e-9)
            assert ("still gives" in opened.text("verdict")) == (
                left.pick(sampler["uniform"]) == sampler["chosen"]
            )
        opened.page.keyboard.press("ArrowRight")


def test_as_it_ran_the_page_computes_what_was_recorded(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    for decision in document["decisions"]:
        recorded = {one["id"]: one["final"] for one in decision["sampler"]["candidates"] if one["bucket"]}
        assert _buckets(opened) == pytest.approx(recorded, rel=1e-6)
        assert opened.page.locator(f".bucket.on[data-bucket='{decision['token']}']").count() == 1
        opened.page.keyboard.press("ArrowRight")


def test_five_hundred_settings_draw_what_the_engine_draws(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    generator = np.random.default_rng(5)
    cases = []
    for case in range(500):
        settings = {
            "temperature": float(generator.choice([0.1, 0.5, 0.9, 1.0, 1.7])),
            "top_k": int(generator.choice([1, 2, 5, 16, 40])),
            "top_p": float(generator.choice([0.2, 0.7, 0.95, 1.0])),
            "min_p": float(generator.choice([0.0, 0.05, 0.5])),
        }
        cases.append((case % len(document["decisions"]), settings, float(generator.random())))
    asked = [
        [
            document["decisions"][index]["sampler"],
            {NAMES[name]: value for name, value in settings.items()},
            number,
        ]
        for index, settings, number in cases
    ]
    drawn = opened.page.evaluate("(asked) => asked.map((one) => boli.sift(...one).chosen?.id ?? null)", asked)
    for (index, settings, number), token in zip(cases, drawn, strict=True):
        assert token == _left(document["decisions"][index]["sampler"], settings).pick(number)


def test_it_says_when_the_stored_candidates_are_not_enough(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    for name, value in {"temperature": 2.0, "top-k": 0, "top-p": 1.0, "min-p": 0.0}.items():
        opened.slide(name, value)
    assert "do not settle" in opened.text("verdict")
    assert _buckets(opened) == {}
    opened.slide("top-k", 20)
    assert "do not settle" not in opened.text("verdict")
    opened.part("reset").click()
    assert opened.text("verdict").startswith("As it ran")


def test_what_is_left_open_is_really_open(opener: Opener, document: dict[str, Any]) -> None:
    """Wherever the page is sure, any other tokens within its bounds would give the same."""
    opened = opener(document)
    generator = np.random.default_rng(6)
    stored = document["decisions"][0]["sampler"]["candidates"][:-1]
    best = stored[0]["penalised"]
    sure = 0
    for _ in range(60):
        others = np.minimum(generator.normal(best - 9, 2, 3000), stored[-1]["penalised"]).astype(np.float32)
        values = np.array([one["penalised"] for one in stored], np.float32)
        logits = np.concatenate((values, others))
        weights = np.exp((logits - best).astype(np.float64))
        sampler = {
            "order": [], "kept": 0, "greedy": False, "uniform": 0.5, "chosen": 0,
            "candidates": [
                {"id": n, "text": "", "logit": float(v), "penalised": float(v), "scaled": float(v)}
                for n, v in enumerate(values)
            ],
            "rest": {
                "count": len(others),
                "probability": float(weights[len(values) :].sum() / weights.sum()),
            },
        }  # fmt: skip
        settings = {
            "temperature": float(generator.uniform(0.3, 1.8)), "top_k": 0,
            "top_p": float(generator.uniform(0.2, 0.99)), "min_p": 0.0,
        }  # fmt: skip
        number = float(generator.random())
        chosen = opened.page.evaluate(
            "(one) => boli.sift(...one).chosen?.id ?? null",
            [sampler, {NAMES[name]: value for name, value in settings.items()}, number],
        )
        if chosen is not None:
            sure += 1
            params = SamplingParams(**settings, seed=1)  # type: ignore[arg-type]
            assert chosen == Sampler(params).distribution(logits).pick(number)
    assert sure > 10


def test_greedy_says_that_no_number_was_drawn(opener: Opener) -> None:
    opened = opener(make_document(layers=2, generated=4, temperature=0.0))
    assert "no dart is thrown" in opened.page.locator("#sampler").inner_text()
    assert opened.part("dart-mark").count() == 0
    opened.slide("temperature", 1.0)
    opened.slide("top-k", 10)
    assert opened.part("dart-mark").count() == 1
    assert len(_buckets(opened)) == 10
