"""The page of a trace, driven in a real Chromium as a reader would."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from web.conftest import Opener
from web.made_decision import packed
from web.made_document import make_document
from web.opened import Opened


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document(layers=6)


def _percent(value: float) -> str:
    return f"{value * 100:.1f}%"


def _decision_shown(opened: Opened, document: dict[str, Any], index: int) -> None:
    """All panes are at one decision."""
    decision = document["decisions"][index]
    assert f"Decision {index + 1} of" in opened.text("decision")
    assert opened.text("probability") == _percent(math.exp(decision["logprob"]))
    selected = opened.page.locator(".film [aria-selected=true]")
    assert selected.get_attribute("data-token") == str(decision["at"] + 1)
    shown = decision["text"].replace(" ", "·").replace("\n", "↵")
    assert opened.text("verdict") == f"As it ran: {shown}."
    assert opened.part("shelf").locator("[role=listitem]").count() == len(decision["kv"]["pages"])
    last = opened.part("lens").locator(".cell.here").last
    assert (last.get_attribute("title") or "").startswith(shown)
    heaviest = opened.part("looks-at").locator("li").count()
    assert 0 < heaviest <= 8


def test_a_click_on_a_token_takes_every_pane_to_its_decision(
    opener: Opener, document: dict[str, Any]
) -> None:
    opened = opener(document)
    _decision_shown(opened, document, 0)
    for index in (5, 30, 2):
        opened.page.locator(f"[data-token='{document['decisions'][index]['at'] + 1}']").click()
        _decision_shown(opened, document, index)


def test_a_token_of_the_prompt_tells_where_it_comes_from(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    opened.page.locator("[data-token='3']").click()
    facts = opened.text("token-facts")
    assert f"id {document['tokens'][3]['id']}" in facts
    assert "message 1" in facts
    opened.page.locator("[data-token='0']").click()
    assert "from the template" in opened.text("token-facts")


def test_keys_move_through_tokens_layers_and_heads(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    for _ in range(4):
        opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowLeft")
    _decision_shown(opened, document, 3)
    layer = int(opened.part("layer").input_value())
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("]")
    opened.page.keyboard.press("]")
    assert int(opened.part("layer").input_value()) == layer + 1
    assert opened.part("head").input_value() == "2"
    assert f"Layer {layer + 1}, head 2" in opened.page.locator("#attention").inner_text()
    opened.page.locator("[data-token='20']").focus()
    opened.page.keyboard.press("End")
    _decision_shown(opened, document, len(document["decisions"]) - 1)
    assert opened.page.evaluate("document.activeElement.dataset.token") == str(len(document["tokens"]) - 1)


def test_every_control_can_be_reached_and_has_a_name(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    nameless = opened.page.evaluate(
        """() => [...document.querySelectorAll('button, input, a[href], canvas[tabindex], [role=grid]')]
            .filter((one) => !one.closest('[aria-hidden=true]'))
            .filter((one) => !(one.ariaLabel || one.innerText?.trim() || one.title || one.labels?.length))
            .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert nameless == []
    seen = set()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        part, tag, outline = opened.page.evaluate(
            """() => {
                const one = document.activeElement
                const part = one.closest('[data-testid]')?.dataset.testid
                return [part, one.outerHTML.slice(0, 80), getComputedStyle(one).outlineStyle]
            }"""
        )
        seen.add(part)
        if tag.startswith("<body"):
            break
        assert outline != "none", tag
    assert {
        "theme",
        "language",
        "start-tour",
        "layer",
        "head-map",
        "hide-sink",
        "lens",
        "temperature",
    } <= seen


def test_languages_and_themes_switch(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    root = opened.page.locator("html")
    light = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.part("theme").click()
    assert root.get_attribute("data-theme") == "dark"
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    opened.part("language").click()
    assert root.get_attribute("lang") == "zh-CN"
    assert "逐位一致" in opened.text("proof")
    assert "第 1 次决定" in opened.text("decision")
    opened.part("language").click()
    assert "bit for bit" in opened.text("proof")


def test_the_reader_s_own_language_and_theme_come_first(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document, locale="zh-CN", color_scheme="dark")
    root = opened.page.locator("html")
    assert (root.get_attribute("lang"), root.get_attribute("data-theme")) == ("zh-CN", "dark")


def test_nothing_is_wider_than_the_screen(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    for width in (1440, 768, 390, 360):
        opened.fits(width)
    opened.page.keyboard.press("ArrowRight")
    _decision_shown(opened, document, 1)


def test_the_sink_can_be_hidden(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    places = opened.part("looks-at").locator(".place")
    opened.part("hide-sink").set_checked(False)
    assert "0" in places.all_inner_texts()
    before = opened.part("matrix").evaluate("(canvas) => canvas.toDataURL()")
    opened.part("hide-sink").set_checked(True)
    assert "0" not in places.all_inner_texts()
    assert opened.part("matrix").evaluate("(canvas) => canvas.toDataURL()") != before


def test_in_full_detail_the_prompt_asks_too(opener: Opener) -> None:
    document = make_document(layers=2, generated=3)
    rows = document["run"]["prompt_length"] - 1
    causal = np.tril(np.ones((rows, rows))) / np.arange(1, rows + 1)[:, None]
    weights = np.broadcast_to(causal, (2, document["model"]["num_attention_heads"], rows, rows))
    document["prompt_attention"] = {
        "first_position": 0, "shape": ["layer", "head", "row", "position"], "weights": packed(weights, "f4"),
    }  # fmt: skip
    opened = opener(document)
    matrix = opened.part("matrix")
    box = matrix.bounding_box()
    assert box is not None
    cell = box["height"] / (rows + 3)  # each position of the prompt but the last, then the decisions
    matrix.hover(position={"x": cell * 2.5, "y": cell * 4.5})
    assert "20.0%" in opened.page.locator("#attention .reading").inner_text()
    matrix.click(position={"x": cell / 2, "y": cell * 4.5})
    assert f"id {document['tokens'][5]['id']} " in opened.text("token-facts")


def test_in_full_detail_numbers_are_shown_at_the_token_that_is_looked_at(opener: Opener) -> None:
    document = make_document(layers=2, generated=3)
    rows, stage = document["run"]["prompt_length"] - 1, "attention_residual"
    name = next(each["values"][0] for each in document["stages"] if each["key"] == stage)
    values = np.arange(2 * rows * 4, dtype=np.float32).reshape(2, rows, 4)
    document["prompt_values"] = {name: packed(values, "f4")}
    for number, decision in enumerate(document["decisions"]):
        decision["values"] = {name: packed(np.full((2, 4), 1000.0 + number), "f4")}
    opened = opener(document)
    opened.slide("layer", 1)
    opened.page.locator(f"[data-stage='{stage}']").click()
    assert "1000 1000 1000 1000" in opened.text("inspector")
    opened.page.locator("[data-token='3']").click()
    assert "position 3" in opened.text("inspector")
    assert " ".join(f"{value:.1f}" for value in values[1, 3]) in opened.text("inspector")
    opened.page.locator(f"[data-token='{rows + 2}']").click()
    assert "1001 1001 1001 1001" in opened.text("inspector")


def test_both_roofs_and_what_was_predicted_and_measured(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    roofline, roof = document["roofline"], opened.part("roofline")
    heights = {
        (kind, phase): float(roof.locator(f".{kind}[data-phase={phase}]").get_attribute("cy") or "nothing")
        for kind in ("predicted", "measured")
        for phase in ("decode", "prefill")
    }
    edges = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", opened.part("roofs").get_attribute("d") or "")]
    assert len(edges) == 2, "the memory's roof, from its foot to where the cores' begins"
    assert edges[0] > edges[1]
    assert heights["predicted", "prefill"] < heights["predicted", "decode"] < edges[0]
    for phase, part in (("decode", roofline), ("prefill", roofline["prefill"])):
        slower = part["measured_seconds"] > part["predicted_seconds"]
        assert (heights["predicted", phase] < heights["measured", phase]) is slower, "slower lies lower"
    told = opened.text("limits")
    assert "prompt of 14" in told
    assert "memory" in told
    assert f"{roofline['prefill']['measured_seconds'] * 1e3:.1f} ms" in told
    assert "cores, 400 G int8 operations/s" in roof.inner_html()
    roofline = roofline | {"operations_per_s": None, "operations_in": ""}
    opened = opener(document | {"roofline": roofline})
    assert "H" not in (opened.part("roofs").get_attribute("d") or ""), (
        "cores that nobody measured have no roof"
    )


def test_the_price_of_each_detail_is_said(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    assert [row.split()[0] for row in opened.part("price").locator("tbody tr").all_inner_texts()] == [
        "summary", "rows", "full",
    ]  # fmt: skip
    assert "300 MB" in opened.text("price")
    assert "2.00 MB in 1.30 s" in opened.page.locator("#price").inner_text()
    assert opened.part("price").locator("tr.on").inner_text().startswith("rows")
    opened = opener(document | {"price": document["price"] | {"offers": None}})
    assert opened.part("price").locator("tbody tr").count() == 1


def test_a_head_is_chosen_in_the_map(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    heads = opened.part("head-map")
    box = heads.bounding_box()
    assert box is not None
    rows, columns = document["model"]["num_hidden_layers"], document["model"]["num_attention_heads"]
    heads.click(position={"x": box["width"] * 4.5 / columns, "y": box["height"] * 1.5 / rows})
    assert (opened.part("attention-layer").input_value(), opened.part("head").input_value()) == ("1", "4")
    opened.page.keyboard.press("ArrowRight")
    assert opened.part("head").input_value() == "5"


def test_a_stage_shows_its_equation_source_weights_and_time(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    opened.slide("layer", 2)
    for stage in document["stages"]:
        opened.page.locator(f"[data-stage='{stage['key']}']").click()
        shown = opened.text("inspector")
        assert stage["title"]["en"] in shown
        assert stage["source"] in shown
        for weight in document["weights"]:
            if weight["role"] in stage["roles"] and weight["layer"] in (None, 2):
                assert weight["name"] in shown
                assert weight["type"] in shown
    opened.page.locator("[data-stage='gate_up']").click()
    milliseconds = document["decisions"][0]["time"]["layers"][2][4] * 1e6
    assert f"{milliseconds:.1f} µs" in opened.text("inspector")


def test_the_tour_goes_through_the_steps(opener: Opener, document: dict[str, Any]) -> None:
    opened = opener(document)
    opened.page.keyboard.press("t")
    titles = {opened.part("tour").locator(".title").inner_text()}
    while opened.part("tour-next").count():
        opened.part("tour-next").click()
        titles.add(opened.part("tour").locator(".title").inner_text())
    assert len(titles) == 11
    opened.page.keyboard.press("ArrowLeft")
    assert "10 of 11" in opened.text("tour")
    opened.page.keyboard.press("Escape")
    assert opened.part("tour").count() == 0


def test_another_format_is_shown_side_by_side(opener: Opener) -> None:
    document = make_document(layers=4, generated=6)
    other = document["model"] | {"name": "the-other-format", "bytes": document["model"]["bytes"] * 2}
    chosen = [decision["token"] for decision in document["decisions"]]
    chosen[2] += 1
    document["compare"] = {
        "model": other,
        "bytes": [document["model"]["bytes"], other["bytes"]],
        "bytes_per_token": [1 << 20, 1 << 21],
        "kv_bytes": [4096, 4096],
        "seconds_per_token": [0.005, None],
        "first_divergent": 2,
        "decisions": [
            {"kl": 0.01 * n, "chosen": token, "text": f" said{n}", "probability": [0.5, 0.25], "rank": n}
            for n, token in enumerate(chosen)
        ],
        "cosine": packed(np.linspace(1.0, 0.9, 24).reshape(6, 4), "f4"),
    }
    opened = opener(document)
    assert "the-other-format" in opened.text("compare")
    assert "100%" in opened.text("compare")
    opened.part("compare").get_by_role("button", name="decision 3").click()
    _decision_shown(opened, document, 2)
    assert "·said2" in opened.text("compare")
    assert "50.0% → 25.0%" in opened.text("compare")
    assert opened.part("compare").locator(".apart").count() == 1


def test_a_trace_without_attention_lens_and_times_says_so(opener: Opener) -> None:
    document = make_document(layers=2, generated=5)
    for decision in document["decisions"]:
        decision.update(attention=None, lens=None, time=None, norms=None)
    document.update(roofline=None, prompt_lens=None, proof=None, detail="summary")
    opened = opener(document)
    body = opened.page.locator("main").inner_text()
    for said in ("holds no attention", "holds no lens", "holds no times", "was not measured", "No record"):
        assert said in body


def test_another_schema_is_named(opener: Opener) -> None:
    document = make_document(layers=2, generated=3) | {"schema": "boli-trace/9"}
    opened = opener(document, wait_for="failed")
    assert "boli-trace/9" in opened.text("failed")
