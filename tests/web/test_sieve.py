"""The page's sampler against the engine's: the same logits, settings and number give the same token."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from boli.engine.params import SamplingParams
from boli.engine.sampling import Distribution, Sampler
from web.conftest import Opener
from web.made_document import HOSTILE, make_document
from web.opened import Opened

# What the settings are called in the page, and its sliders.
NAMES = {"temperature": "temperature", "top_k": "topK", "top_p": "topP", "min_p": "minP"}
SLIDERS = {"temperature": "temperature", "top_k": "top-k", "top_p": "top-p", "min_p": "min-p"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document(layers=2, generated=12)


@pytest.fixture(scope="module")
def constrained() -> dict[str, Any]:
    return make_document(layers=2, generated=12, grammar=True)


def _logits(sampler: dict[str, Any]) -> npt.NDArray[np.float32]:
    """The stored candidates as a whole vocabulary."""
    logits = np.full(49152, -np.inf if sampler.get("grammar") else -80.0, np.float32)
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


@pytest.mark.parametrize("held", ["document", "constrained"])
def test_as_it_ran_the_page_computes_what_was_recorded(
    opener: Opener, held: str, request: pytest.FixtureRequest
) -> None:
    document = request.getfixturevalue(held)
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


def test_a_grammar_is_a_step_of_its_own(opener: Opener, constrained: dict[str, Any]) -> None:
    for language, told in (
        ("en-US", "Allowed by the grammar: {n} of 49,152 tokens, {p} of the probability."),
        ("zh-CN", "语法允许：49,152 个词元中的 {n} 个，占 {p} 的概率。"),
    ):
        opened = opener(constrained, locale=language)
        for decision in constrained["decisions"][:3]:
            grammar = decision["sampler"]["grammar"]
            share = f"{100 * grammar['probability']:.1f}%"
            assert opened.text("grammar").startswith(told.format(n=f"{grammar['allowed']:,}", p=share))
            barred = {str(one["id"]) for one in grammar["barred"]}
            drawn = opened.page.locator("[data-barred]").evaluate_all(
                "(all) => all.map((one) => [one.dataset.barred, one.getAttribute('class').split(' ')[0]])"
            )
            assert {token for token, _ in drawn} == barred
            # They stand in the panes before the grammar's, fall out there, and are in none behind it.
            punished = any(one["penalised"] != one["logit"] for one in decision["sampler"]["candidates"])
            kinds = [kind for token, kind in drawn if token == drawn[0][0]]
            assert kinds == ["stays"] * (1 + punished) + ["cut"]
            # What the model thought likely says which of it the grammar bars.
            struck = sum(str(one["id"]) in barred for one in decision["top"][:8])
            assert opened.part("decision").locator("li.barred").count() == struck
            note = opened.part("decision").locator("figure p").inner_text()
            assert (note.rpartition("；" if language == "zh-CN" else "; ")[0] != "") == bool(struck)
            opened.page.keyboard.press("ArrowRight")


def test_without_a_grammar_nothing_is_said_of_one(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    assert opened.part("sieve").count() == 1
    assert opened.part("grammar").count() == opened.page.locator("[data-barred]").count() == 0


def test_what_a_grammar_bars_is_text(opener: Opener, constrained: dict[str, Any]) -> None:
    document = json.loads(json.dumps(constrained))
    for one, text in zip(document["decisions"][0]["sampler"]["grammar"]["barred"], HOSTILE, strict=False):
        one["text"] = text
    opened = opener(document)
    shown = opened.text("grammar")
    assert "<img src=" in shown
    assert "⟨202E⟩evil⟨2066⟩" in shown
    assert "␛[31mred" in shown
    assert opened.page.locator("#sampler img").count() == 0
    assert not {"\u202e", "\x1b"} & set(opened.page.locator("#sampler").inner_html())


def test_held_to_a_grammar_other_settings_draw_what_the_engine_draws(
    opener: Opener, constrained: dict[str, Any]
) -> None:
    """Top-k sorts what is left even where the grammar allows fewer than so many."""
    opened = opener(constrained)
    few = [one["sampler"] for one in constrained["decisions"] if one["sampler"]["grammar"]["allowed"] == 12]
    generator = np.random.default_rng(8)
    for sampler in few:
        for top_k in (0, 4, 12, 40):
            settings = {"temperature": 1.3, "top_k": top_k, "top_p": 1.0, "min_p": 0.0}
            number = float(generator.random())
            drawn = opened.page.evaluate(
                "(asked) => boli.sift(...asked).chosen?.id",
                [sampler, {NAMES[name]: value for name, value in settings.items()}, number],
            )
            assert drawn == _left(sampler, settings).pick(number)
