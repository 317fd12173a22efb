"""Pictures: true to scale, well-formed, and safe with any name."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boli.weigh.formats import weigh_format
from boli.weigh.model import Model, find_model
from boli.weigh.picture import Picture, breadth, shortened, stacked
from boli.weigh.picture_board import draw_board
from boli.weigh.picture_matrices import draw_matrices
from boli.weigh.picture_treemap import Box, draw_bytes, squarified
from boli.weigh.weights import WeightsAccount, weigh_weights

NAMES = [
    "llama-3.1-8b",
    "gemma-3-270m",
    "mixtral-8x7b",
    "deepseek-v3",
    "gpt2",
    "t5-small",
    "bert-base-uncased",
]
EVIL = "</text><script>alert('x')</script> & \"quoted\" 模型"


def elements(picture: Picture, name: str) -> list[ElementTree.Element]:
    svg = ElementTree.fromstring(picture.svg())
    return [each for each in svg.iter() if each.tag.rpartition("}")[2] == name]


def shapes(picture: Picture) -> list[tuple[str, float, float, float, float]]:
    """Colour, x, y, width and height of all rectangles but the ground and the legend."""
    found = []
    for each in elements(picture, "rect"):
        if each.get("x") is None or each.get("height") == "11":
            continue
        numbers = [float(each.get(key, "")) for key in ("x", "y", "width", "height")]
        found.append((each.get("class", "").split()[0].removeprefix("f-"), *numbers))
    return found  # type: ignore[return-value]


def drawn(name: str) -> tuple[WeightsAccount, Picture]:
    weights = weigh_weights(find_model(name))
    return weights, draw_matrices(weights, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_well_formed_and_on_its_page(name: str) -> None:
    weights, picture = drawn(name)
    for each in (picture, draw_bytes(weights, name)):
        svg = ElementTree.fromstring(each.svg())
        width, height = map(float, (svg.get("width", ""), svg.get("height", "")))
        for _, x, y, breadth_of, height_of in shapes(each):
            assert x >= 0
            assert y >= 0
            assert x + breadth_of <= width + 1
            assert y + height_of <= height + 1
        for text in elements(each, "text"):
            assert float(text.get("x", "")) >= 0
            assert 0 < float(text.get("y", "")) < height


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-270m", "mixtral-8x7b"])
def test_areas_of_the_whole_model_are_its_parameters(name: str) -> None:
    weights, picture = drawn(name)
    heading = next(t for t in elements(picture, "text") if (t.text or "").startswith("Layer"))
    whole = [shape for shape in shapes(picture) if shape[2] < float(heading.get("y", "")) - 15]
    areas: dict[str, float] = {}
    for part, _, _, width, height in whole:
        areas[part] = areas.get(part, 0.0) + width * height
    numbers: dict[str, int] = {}
    from boli.weigh.weights import part_of

    for row in weights.model_rows:
        if len(row.shape) > 1:
            numbers[part_of(row.role)] = numbers.get(part_of(row.role), 0) + row.parameters
    whole_model = sum(numbers.values())
    scale = sum(areas.values()) / whole_model
    for part, count in numbers.items():
        if count:
            assert areas[part] / scale == pytest.approx(count, rel=0.02, abs=whole_model / 1e5), part


def test_gemmas_embedding_takes_most_of_the_page() -> None:
    _, picture = drawn("gemma-3-270m")
    assert any(t.text == "embeddings 62.6 %" for t in elements(picture, "text"))
    assert any(t.text == "also the head" for t in elements(picture, "text"))


def test_the_thin_keys_of_gqa() -> None:
    _, picture = drawn("llama-3.1-8b")
    named = {tip.text.split(":")[0]: box for box in elements(picture, "rect") for tip in box if tip.text}
    q, k = (named[f"model.layers.0.self_attn.{x}_proj.weight"] for x in "qk")
    assert float(q.get("height", "")) == pytest.approx(4 * float(k.get("height", "")), abs=0.02)
    assert q.get("width") == k.get("width")


def test_matrices_do_not_lie_on_each_other() -> None:
    _, picture = drawn("gemma-3-270m")
    boxes = shapes(picture)
    for index, (_, x, y, width, height) in enumerate(boxes):
        for _, left, top, w, h in boxes[:index]:
            apart = x + width <= left + 0.05 or left + w <= x + 0.05 or y + height <= top + 0.05
            assert apart or top + h <= y + 0.05


def test_a_format_is_told_apart_by_its_types() -> None:
    model = find_model("llama-3.1-8b")
    stored = {tensor.weight: tensor.type for tensor in weigh_format(model, "Q4_K_M").tensors}
    weights = weigh_weights(replace(model, stored=stored))
    picture = draw_bytes(weights, model.name)
    areas: dict[str, float] = {}
    for colour, _, _, width, height in shapes(picture):
        areas[colour] = areas.get(colour, 0.0) + width * height
    by_size = sorted(areas.values(), reverse=True)
    for (_, size), area in zip(weights.by_type.items(), by_size, strict=True):
        assert area / sum(by_size) == pytest.approx(size / weights.bytes.value, abs=1e-4)
    legend = [t.text for t in elements(picture, "text") if t.text and re.match(r"Q\d_K \d", t.text)]
    assert legend[:2] == ["Q4_K 74.4 %", "Q6_K 25.6 %"]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30))
def test_a_treemap_fills_its_page(sizes: list[int]) -> None:
    sizes.sort(reverse=True)
    page = Box(10, 20, 300, 200)
    boxes = squarified(sizes, page)
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(60_000 * size / sum(sizes), rel=1e-4, abs=1e-4)
        assert box.x >= 10 - 1e-3
        assert box.y >= 20 - 1e-3
        assert box.x + box.width <= 310 + 1e-3
        assert box.y + box.height <= 220 + 1e-3


CONTEXTS, REQUESTS = [1024, 2048, 4096], [1, 2, 4]
TOTALS = {(c, r): 10**9 + c * r * 10**5 for c in CONTEXTS for r in REQUESTS}


def test_the_board_parts_what_fits_from_what_does_not() -> None:
    memory = 1_450_000_000
    picture = draw_board("model", "card", memory, CONTEXTS, REQUESTS, TOTALS)
    cells = [colour for colour, _, _, _, height in shapes(picture) if height == 40]
    sizes = [TOTALS[context, count] for count in REQUESTS for context in CONTEXTS]
    for colour, size in zip(cells, sizes, strict=True):
        assert colour == ("over" if size > memory else "tight" if size > 0.9 * memory else "fits")
    (line,) = elements(picture, "polyline")
    xs = [float(point.split(",")[0]) for point in line.get("points", "").split()]
    assert all(before >= after for before, after in pairwise(xs))


@pytest.mark.parametrize("memory", [1, 10**15])
def test_a_board_without_a_border_has_no_line(memory: int) -> None:
    assert not elements(draw_board("model", "card", memory, CONTEXTS, REQUESTS, TOTALS), "polyline")


def test_names_are_text_and_nothing_else(gemma: Model) -> None:
    weights = weigh_weights(gemma)
    board = draw_board(EVIL, EVIL, 10**9, CONTEXTS, REQUESTS, TOTALS)
    for picture in (draw_matrices(weights, EVIL), draw_bytes(weights, EVIL), board):
        assert "<script" not in picture.svg()
        assert not elements(picture, "script")
    assert any((t.text or "").startswith("</text><script>") for t in elements(board, "text"))


def test_pictures_stand_one_below_the_other(gemma: Model) -> None:
    weights = weigh_weights(gemma)
    parts = [draw_matrices(weights, "a"), draw_bytes(weights, "b")]
    whole = stacked("all", parts)
    assert whole.height == parts[0].height + parts[1].height
    assert len(elements(whole, "rect")) == sum(len(elements(part, "rect")) for part in parts) - 1


@pytest.fixture(scope="module")
def gemma() -> Model:
    return find_model("gemma-3-270m")


def test_a_text_that_is_too_wide_is_shortened() -> None:
    assert shortened("embedding", breadth("embedding")) == "embedding"
    assert shortened("embedding", 4.0) == "embedd…"
    assert shortened("embedding", 1.0) == ""
    assert breadth("模型") == 2 * breadth("模")
    assert breadth("模") > breadth("m")
