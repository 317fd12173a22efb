"""The receipt: predicted, allocated, resident, and what nobody accounts for."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import boli
from boli.engine.resident import resident_of
from boli.weigh.devices import find_device
from boli.weigh.model import find_model
from boli.weigh.picture_receipt import draw_receipt
from boli.weigh.receipt import Receipt, held_against, receipt, with_guesses
from boli.weigh.run import weigh_run
from boli.weigh.speed import weigh_speed
from boli.weigh.views_receipt import bar, view_receipt


@pytest.fixture(scope="module")
def made() -> Receipt:
    """Of a run that never was: 10 MB that nobody accounts for, and half the cache untouched."""
    model = find_model("smollm2-135m")
    run = weigh_run(model, context=1024, threads=2)
    speed = weigh_speed(model, find_device("Ryzen 9 7950X"), bytes_of=run.packed, context=100, prompt=50)
    allocated = {name: int(part.value) for name, part in run.categories.items()}
    resident = {"kv_cache": allocated["kv_cache"] // 2}
    process = sum(allocated.values()) - resident["kv_cache"] + 10_000_000
    return held_against(
        model.name, run, speed, allocated, process, resident, {"decode": 40.0, "prompt": 300.0}
    )


def test_what_nobody_accounts_for_is_a_line_of_its_own(made: Receipt) -> None:
    assert made.unaccounted == 10_000_000
    assert made.closed
    assert made.allocated == made.predicted.value
    assert made.process == made.unaccounted + sum(line.held for line in made.lines)
    rows = {row[0]: row for row in view_receipt(made).tables[0].rows}
    assert rows["unaccounted"][3] == "10,000,000"
    assert rows["kv_cache"][1] == f"= {rows['kv_cache'][2]}"
    assert rows["process"][3] == f"{made.process:,}"


def test_open_books_say_so(made: Receipt) -> None:
    opened = Receipt(name=made.name, lines=made.lines, process=2 * made.process, speeds=())
    assert not opened.closed
    facts = dict(view_receipt(opened).facts)
    assert facts["books"].startswith("open: ")
    assert len(view_receipt(opened).tables) == 1


def test_speed_says_by_how_much_it_was_off(made: Receipt) -> None:
    rates = {row[0]: row for row in view_receipt(made).tables[1].rows}
    decode = next(each for each in made.speeds if each.phase == "decode")
    assert decode.predicted.best is not None
    off = 100 * (40.0 / decode.predicted.best.value - 1)
    assert rates["decode"][5:] == ["! 40.0", f"{off:+.0f} %"]


def test_a_category_that_only_one_side_has(made: Receipt) -> None:
    run = weigh_run(find_model("smollm2-135m"), context=64, threads=1)
    odd = held_against("odd", run, None, {"surprise": 5}, 10, {}, {})
    lines = {line.category: line for line in odd.lines}
    assert lines["surprise"].predicted is None
    assert lines["kv_cache"].allocated == 0
    assert lines["kv_cache"].predicted is not None
    assert view_receipt(odd).tables[0].rows[0][:3] == ["surprise", "-", "5"]


def test_it_is_a_document_and_a_picture(made: Receipt) -> None:
    document = json.loads(json.dumps(made.to_json()))
    assert document["unaccounted"] == 10_000_000
    assert document["closed"] is True
    assert (
        document["categories"]["kv_cache"]["resident"] * 2 == document["categories"]["kv_cache"]["allocated"]
    )
    assert document["speed"]["decode"]["measured"] == 40.0
    svg = ElementTree.fromstring(draw_receipt(made).svg())
    texts = [each.text for each in svg.iter() if each.tag.endswith("}text")]
    for line in made.lines:
        assert line.category in texts
    assert "unaccounted" in texts
    assert sum(each.tag.endswith("}circle") for each in svg.iter()) == 2 * len(made.speeds)
    outlines = [each for each in svg.iter() if each.tag.endswith("}polyline") and each.get("class") == "line"]
    assert len(outlines) == len(made.lines) + 1  # one a category, one for the process


@pytest.mark.parametrize(
    ("held", "allocated", "predicted", "drawn"),
    [
        (50, 50, 50, "███████▏"),
        (50, 100, 50, "███████▏░░░░░░░"),
        (0, 0, 50, "       ▏"),
        (50, 50, None, "███████"),
        (-5, 0, None, ""),
        (0, 0, 0, "▏"),
    ],
)
def test_bars(held: float, allocated: float, predicted: float | None, drawn: str) -> None:
    assert bar(held, allocated, predicted, 100) == drawn


def test_pages_that_were_never_touched_are_not_resident() -> None:
    size = 64 << 20
    buffer = np.empty(size, np.uint8)
    address = buffer.ctypes.data
    untouched = resident_of([(address, size)])
    if untouched is None:
        pytest.skip("this system does not tell")
    assert untouched < size // 8
    buffer[: size // 2] = 1
    half = resident_of([(address, size)])
    assert half == pytest.approx(size // 2, rel=0.1)
    assert resident_of([(address, 4096 * 10), (address + 4096 * 10, size // 4)]) == 4096 * 10 + size // 4
    assert resident_of([]) == 0


@pytest.mark.model
@pytest.mark.parametrize("alias", ["smollm2", "gemma3-270m"])
def test_the_receipt_of_a_real_run(alias: str) -> None:
    with boli.load(alias, context=1024, threads=2) as llm:
        answer = llm.generate("one two three four five six seven " * 4, max_tokens=48, ignore_eos=True)
        allocated, process, path = llm.ledger.totals(), llm.ledger.resident_bytes(), Path(llm.path)
    found = receipt(
        path, context=1024, threads=2, allocated=allocated, process=process,
        prompt_tokens=len(answer.prompt_token_ids), new_tokens=48, device=find_device("Ryzen 9 7950X"),
        drafted_tokens=answer.drafted_tokens, accepted_tokens=answer.accepted_tokens,
        most_drafted=answer.most_drafted,
        tokens_per_s={"decode": answer.timings.decode_tokens_per_s},
    )  # fmt: skip
    for line in found.lines:
        if line.category in ("kv_cache", "workspace") or line.category.startswith("weights/"):
            assert line.predicted is not None
            assert line.predicted.value == line.allocated
    assert [each.phase for each in found.speeds] == ["decode"]
    assert answer.most_drafted > 1  # guesses, whose rows of logits are in the workspace
    assert found.process == process


def test_guesses_cost_arithmetic_and_save_steps(tmp_path: Path) -> None:
    model = find_model("smollm2-135m")
    run = weigh_run(model, context=1024, threads=2)
    speed = weigh_speed(
        model, find_device("Ryzen 9 7950X"), bytes_of=run.packed, context=100, weight_type="INT8"
    )
    assert speed.decode is not None
    assert speed.decode.best is not None
    assert speed.peak is not None
    guessed = with_guesses(speed, steps=10, drafted=30, accepted=20)
    assert guessed is not None
    assert guessed.best is not None
    rows = 30 * speed.flop_per_token.value / (speed.peak.value * speed.efficiency.compute[1])
    assert guessed.best.value == pytest.approx(30 / (10 / speed.decode.best.value + rows))
    none_right = with_guesses(speed, steps=10, drafted=30, accepted=0)
    assert none_right is not None
    assert none_right.best is not None
    assert none_right.best.value < speed.decode.best.value < guessed.best.value
