"""One layer, stage by stage: what it is for, its equation, its matrices, its time, and its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from boli.trace.view.attention import heads_grid
from boli.trace.view.books import stage_bytes
from boli.trace.view.numbers import many, seconds, size, three
from boli.trace.view.parts import Column, Facts, Formula, Heading, Part, Prose, Table
from boli.trace.view.prose import explained
from boli.trace.view.reading import Document, Reading
from boli.trace.view.shown import shown

#: The stages of a layer, in the order in which they run.
LAYER_STAGES: Final = (
    "attention_norm", "qkv", "rope", "scores", "mask", "softmax", "weighted_sum", "output_projection",
    "attention_residual", "mlp_norm", "gate_up", "activation", "down", "mlp_residual",
)  # fmt: skip
_NUMBERS: Final = 6  # of a vector that are shown


def layer_walk(reading: Reading, step: int, layer: int) -> Iterator[Part]:
    """The stages of one layer for the token that one decision consumed."""
    say, facts = reading.say, reading.layer(layer)
    norms = reading.decision(step)["norms"]
    window = facts["window"]
    last = reading.model["num_hidden_layers"] - 1
    yield Heading(say(f"Inside layer {layer} (of 0 to {last})", f"第 {layer} 层之内（共 0–{last} 层）"))
    at = reading.decisions[step]["at"]
    yield Facts(
        [
            (
                say("step", "步"),
                say(
                    f"{step}: {reading.token(at)} goes in, {reading.chosen(step)} will come out",
                    f"{step}：输入 {reading.token(at)}，最后选出 {reading.chosen(step)}",
                ),
            ),
            (
                say("sees", "看得见"),
                say("every earlier position", "前面的所有位置")
                if window is None
                else say(f"the last {window} positions", f"最近 {window} 个位置"),
            ),
            (say("reads", "读取"), say(f"{size(facts['bytes'])} of weights", f"权重 {size(facts['bytes'])}")),
            (
                say("length of x", "x 的长度"),
                f"{three(norms['residual'][layer])} → {three(norms['residual'][layer + 1])}  "
                + say(
                    f"(attention adds {three(norms['attention_branch'][layer])}, "
                    f"the MLP {three(norms['mlp_branch'][layer])})",
                    f"（注意力加 {three(norms['attention_branch'][layer])}，MLP 加 "
                    f"{three(norms['mlp_branch'][layer])}）",
                ),
            ),
        ]
    )
    spent = dict(zip(reading.timed(step), reading.decisions[step]["time"]["layers"][layer], strict=True))
    ends = {reading.stages_of(name)[-1]: name for name in spent if reading.stages_of(name)}
    for key in LAYER_STAGES:
        if key not in reading.stages:
            continue
        yield from _stage(reading, step, layer, key)
        if key in ends:
            title, took = reading.timed_title(ends[key]), seconds(spent[ends[key]])
            yield Prose(say(f"{title} took {took}", f"{title} 用时 {took}"), faint=True)


def _stage(reading: Reading, step: int, layer: int, key: str) -> Iterator[Part]:
    stage = reading.stages[key]
    yield Heading(reading.title(key), 2)
    text = explained(reading, key, layer)
    if text:
        yield Prose(text)
    yield formula(reading, key)
    yield from weights_table(reading, reading.weights(stage["roles"], layer))
    yield from _work(reading, step, layer, key)
    if key == "softmax":
        yield from heads_grid(reading, step, layer)
    rows = [(name, reading.value(step, name, layer)) for name in stage["values"]]
    known = [(name.replace("_", " "), numbers(vector)) for name, vector in rows if vector is not None]
    if known:
        yield Facts(known)


def formula(reading: Reading, key: str) -> Formula:
    """A stage's equation with the line that computed it."""
    stage = reading.stages[key]
    return Formula(shown(stage["equation"]), shown(stage["source"]))


def weights_table(reading: Reading, weights: list[Document]) -> Iterator[Part]:
    """The matrices of a stage: names, shapes, types and bytes."""
    if not weights:
        return
    say = reading.say
    rows = [
        [
            shown(each["name"]), " × ".join(map(str, each["shape"])), shown(each["type"]),
            shown(say(f"is {tied}", f"即 {tied}")) if (tied := each["tied_to"]) else size(each["bytes"]),
        ]
        for each in weights
    ]  # fmt: skip
    yield Table(
        [
            Column(say("weights", "权重")), Column(say("shape", "形状")), Column(say("type", "类型")),
            Column(say("bytes", "字节"), numeric=True),
        ],
        rows,
    )  # fmt: skip


def _work(reading: Reading, step: int, layer: int, key: str) -> Iterator[Part]:
    """Operations of a stage, and the bytes that it reads."""
    say, whole = reading.say, reading.layers[layer]
    facts = whole["stages"].get(key, {})
    positions = min(reading.decisions[step]["at"] + 1, whole["window"] or reading.decisions[step]["at"] + 1)
    flops = facts.get("flops", 0) + facts.get("flops_per_position", 0) * positions
    if flops:
        read = size(stage_bytes(whole, key, positions))
        cached = say(f" of the cache, {positions} positions", f"（缓存，{positions} 个位置）")
        yield Prose(
            say(f"{many(flops)} operations on {read}", f"{many(flops)} 次运算，读 {read}")
            + (cached if "bytes_per_position" in facts else ""),
            faint=True,
        )


def numbers(vector: np.ndarray) -> str:
    """The beginning of a vector, and what can be said of all of it."""
    flat = np.asarray(vector, np.float64).ravel()
    few = " ".join(f"{value:+.3f}" for value in flat[:_NUMBERS])
    more = " …" if flat.size > _NUMBERS else ""
    length, most = float(np.linalg.norm(flat)), float(np.abs(flat).max(initial=0.0))
    return f"[{flat.size}] {few}{more}  ‖·‖ {three(length)}  max |·| {three(most)}"
