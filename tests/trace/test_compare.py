"""The same tokens through two forms of a model: what is said of the difference is the difference."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.cells import cell_len
from rich.console import Console

from boli.errors import UsageError
from boli.trace import Trace
from boli.trace.arrays import unpacked
from boli.trace.compare import compare, cosine, divergence
from boli.trace.replay import replay
from boli.trace.view.numbers import three
from boli.trace.view.terminal import print_compare, print_walk
from tiny_models import Zoo
from traced import tiny_llm

LOGITS = arrays(np.float32, 20, elements=st.floats(-30, 30, width=32))
PROMPT = "the thing is"


@given(LOGITS, LOGITS)
def test_divergence_is_that_of_torch(first: np.ndarray, second: np.ndarray) -> None:
    mine, yours = (torch.log_softmax(torch.tensor(each, dtype=torch.float64), 0) for each in (first, second))
    expected = torch.nn.functional.kl_div(yours, mine, log_target=True, reduction="sum").item()
    assert divergence(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert divergence(first, second) >= 0.0
    assert divergence(first, first) == 0.0


def test_cosine_of_rows() -> None:
    rows = np.array([[3.0, 4.0], [1.0, 0.0], [2.0, 2.0]], np.float32)
    others = np.array([[6.0, 8.0], [0.0, 5.0], [-1.0, -1.0]], np.float32)
    assert cosine(rows, others) == pytest.approx([1.0, 0.0, -1.0])
    assert cosine(np.zeros((1, 2), np.float32), rows[:1]) == pytest.approx([0.0])


@pytest.fixture(scope="module")
def pair(zoo: Zoo) -> Iterator[tuple[Trace, Trace]]:
    """A run of a model in float32, and the same tokens where its weights are rounded to four bits."""
    with tiny_llm(zoo) as llm:
        first = llm.trace(PROMPT, max_tokens=10, temperature=0.9, seed=4)
        assert first._live is not None
        run = first._live.run
    with tiny_llm(zoo, weights="int4") as other:
        yield first, replay(other, run, other_model=True)


def test_a_trace_compared_with_itself_differs_in_nothing(pair: tuple[Trace, Trace]) -> None:
    first, _ = pair
    section = compare(first, first)
    assert section["first_divergent"] is None
    assert {each["kl"] for each in section["decisions"]} == {0.0}
    assert unpacked(section["cosine"], "cosine") == pytest.approx(np.ones((10, 2)))
    assert section["bytes"][0] == section["bytes"][1]


def test_every_number_of_a_comparison(pair: tuple[Trace, Trace]) -> None:
    first, second = pair
    section = compare(first, second)
    logits = [np.asarray(each.logits) for each in pair]
    for number, each in enumerate(section["decisions"]):
        assert each["kl"] == divergence(logits[0][number], logits[1][number]) > 0.0
        token = first.steps[number].token
        shares = [torch.softmax(torch.tensor(rows[number]), 0)[token].item() for rows in logits]
        assert each["probability"] == pytest.approx(shares, rel=1e-4)
        assert each["rank"] == int((logits[1][number] > logits[1][number][token]).sum())
        # What the second would have said, had its logits met the same random number.
        assert each["chosen"] == second.sampler[number].chosen
    apart = [n for n, each in enumerate(section["decisions"]) if each["chosen"] != first.steps[n].token]
    assert section["first_divergent"] == (apart[0] if apart else None)
    streams = [np.asarray(each.residual) for each in pair]
    found = unpacked(section["cosine"], "cosine")
    assert found.shape == (10, 2)
    expected = torch.nn.functional.cosine_similarity(*(torch.tensor(each[:, 1:]) for each in streams), dim=-1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert section["bytes"][0] > section["bytes"][1]
    assert section["bytes_per_token"][0] > section["bytes_per_token"][1]
    assert all(section["seconds_per_token"])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_comparison_fits_into_the_terminal(pair: tuple[Trace, Trace], width: int) -> None:
    document = pair[0].compare(pair[1]).document()
    json.dumps(document, allow_nan=False)
    for language, expected in (("en", "first difference"), ("zh", "首个分歧")):
        written = io.StringIO()
        print_compare(
            document,
            Console(file=written, width=width, color_system=None),
            language=language,  # type: ignore[arg-type]
        )
        assert expected in written.getvalue()
        assert all(cell_len(line) <= width for line in written.getvalue().split("\n"))
    written = io.StringIO()
    print_walk(document, Console(file=written, width=width, color_system=None), step=3)
    _, one = written.getvalue().split("The same decision in another format (step 3)")
    each = document["compare"]["decisions"][3]
    assert f"KL(A ‖ B)  {three(each['kl'])} nats" in one
    away = 1.0 - float(unpacked(document["compare"]["cosine"], "cosine")[3, 1])
    assert re.search(rf"^L1 +{re.escape(three(away))} ", one, re.MULTILINE)
    assert all(cell_len(line) <= width for line in written.getvalue().split("\n"))


def test_other_tokens_cannot_be_compared(zoo: Zoo, pair: tuple[Trace, Trace]) -> None:
    with tiny_llm(zoo) as llm:
        other = llm.trace(PROMPT + " it", max_tokens=10)
    with pytest.raises(UsageError, match="different tokens"):
        compare(pair[0], other)


def test_a_file_has_not_all_logits(pair: tuple[Trace, Trace], tmp_path: Path) -> None:
    pair[1].save(tmp_path / "trace.json")
    with pytest.raises(UsageError, match="not all logits"):
        compare(pair[0], Trace.load(tmp_path / "trace.json"))
