"""Views of real traces: every family, and what they say held against what the trace knows."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from boli.trace import Trace
from boli.trace.view.books import entries
from boli.trace.view.numbers import percent
from boli.trace.view.reading import Reading
from boli.trace.view.terminal import print_walk
from tiny_models import Zoo
from traced import FAMILIES, tiny_llm


def walk(document: dict[str, Any], **view: int) -> str:
    written = io.StringIO()
    print_walk(document, Console(file=written, width=80, color_system=None), **view)  # type: ignore[arg-type]
    return written.getvalue()


@pytest.fixture(scope="module", params=FAMILIES)
def trace(request: pytest.FixtureRequest, zoo: Zoo) -> Trace:
    with tiny_llm(zoo, request.param) as llm:
        messages = [{"role": "user", "content": "the thing"}]
        ids = llm.render(messages)
        return llm.trace(ids, detail="full", max_tokens=4, temperature=0.9, top_k=30, seed=5)


def test_every_view_of_every_family(trace: Trace) -> None:
    document = json.loads(json.dumps(trace.document()))
    last = len(trace.layers) - 1
    views: list[dict[str, int]] = [{}, {"step": 0}, {"step": 3}, {"step": 1, "layer": last},
                                   {"step": 3, "layer": 0, "head": 1}]  # fmt: skip
    for view in views:
        out = walk(document, **view)
        assert all(cell_len(line) <= 80 for line in out.split("\n"))
    assert f"✓ {len(trace.steps)} tokens replayed" in walk(document)
    assert trace._repr_html_().count("<svg") >= 4


def test_a_layers_walk_names_every_weight_of_the_layer_once(trace: Trace) -> None:
    out = walk(trace.document(), step=1, layer=1)
    for weight in trace.layers[1].weights:
        assert sum(line.split(" ")[0] == weight["name"] for line in out.split("\n")) == 1, weight["name"]


def test_probabilities_and_norms_are_those_of_the_trace(trace: Trace) -> None:
    reading = Reading(trace.document())
    out = walk(trace.document(), step=2)
    for each in trace.steps[2].data["top"][:3]:
        assert f"{each['logit']:.4f}" in out
        assert percent(each["probability"]) in out
    lines = [line for line in out.split("\n") if line.startswith(f"L{len(trace.layers) - 1} ")]
    assert lines
    assert reading.chosen(2) in out


def test_the_time_of_a_step_is_shared_out_completely(trace: Trace) -> None:
    reading = Reading(trace.document())
    for step in range(1, len(trace.steps)):
        rows = entries(reading, step)
        time = trace.steps[step].data["time"]
        inside = sum(row.seconds for row in rows[:-1])  # sampling comes behind the step
        assert 0.0 < inside <= time["total"] * 1.001
        assert all(row.seconds >= 0.0 for row in rows)
