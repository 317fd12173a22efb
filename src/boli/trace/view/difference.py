"""Two formats of a model side by side, on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Final

import numpy as np

from boli.trace.arrays import unpacked
from boli.trace.view.numbers import percent, seconds, size, three
from boli.trace.view.parts import Bar, Bars, Column, Facts, Film, Frame, Heading, Part, Prose, Table
from boli.trace.view.reading import Document, Reading
from boli.trace.view.shown import shown, token_text

_FRAMES: Final = 60
_APART: Final = 8  # decisions that are listed


def comparison(reading: Reading) -> Iterator[Part]:
    """The chapters of the section `compare`; none if the document has none."""
    section = reading.document.get("compare")
    if not section:
        return
    say = reading.say
    yield Heading(say("The same tokens in another format", "同样的词元，换一种格式"))
    yield Facts([("A", _name(reading.model)), ("B", _name(section["model"]))])
    yield _sides(reading, section)
    yield Facts(list(_found(reading, section)))
    yield Heading(say("Decision by decision", "逐个词元对照"), 2)
    yield from _film(reading, section)
    yield from _apart(reading, section)
    yield from _layers(reading, section)


def one_comparison(reading: Reading, step: int) -> Iterator[Part]:
    """One decision of the section `compare`; nothing if the document has none."""
    section = reading.document.get("compare")
    if not section:
        return
    say, each, mine = reading.say, section["decisions"][step], reading.decision(step)
    yield Heading(
        say(f"The same decision in another format (step {step})", f"同一次选择，换一种格式（第 {step} 步）")
    )
    best = mine["top"][0]
    would = token_text(best["text"]), token_text(each["text"])
    chosen = reading.chosen(step)
    yield Facts([("A", _name(reading.model)), ("B", _name(section["model"]))])
    yield Table(
        [Column(""), Column("A"), Column("B")],
        [
            [f"p({chosen})", *map(percent, each["probability"])],
            [say(f"rank of {chosen}", f"{chosen} 的名次"), str(mine["rank"] + 1), str(each["rank"] + 1)],
            [say("likeliest", "首选"), *would],
        ],
    )
    yield Facts([("KL(A ‖ B)", say(f"{three(each['kl'])} nats", f"{three(each['kl'])} 奈特"))])
    yield from _layers(reading, section, step)


def _sides(reading: Reading, section: Document) -> Table:
    say = reading.say
    rows = [
        [say("weights in memory", "内存中的权重"), *_pair(section["bytes"], size), _change(section["bytes"])],
        [
            say("read for a token", "每个词元读取"),
            *_pair(section["bytes_per_token"], size),
            _change(section["bytes_per_token"]),
        ],
        [
            say("KV cache at the end", "结束时的 KV 缓存"),
            *_pair(section["kv_bytes"], size),
            _change(section["kv_bytes"]),
        ],
    ]
    paces = section["seconds_per_token"]
    if None not in paces:
        rows.append([say("time for a token", "每个词元用时"), *_pair(paces, seconds), _change(paces)])
    return Table(
        [Column(""), Column("A", numeric=True), Column("B", numeric=True), Column("Δ", numeric=True)], rows
    )


def _name(model: Document) -> str:
    return (
        f"{shown(PurePath(str(model['name'])).name)}, {shown(str(model.get('weights') or model['format']))}"
    )


def _pair(values: Sequence[float], told: Callable[[float], str]) -> list[str]:
    return [told(value) for value in values]


def _change(values: Sequence[float]) -> str:
    before, after = values
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def _found(reading: Reading, section: Document) -> Iterator[tuple[str, str]]:
    say, decisions = reading.say, section["decisions"]
    kls = [each["kl"] for each in decisions]
    worst = int(np.argmax(kls))
    yield (
        "KL(A ‖ B)",
        say(
            f"{three(float(np.mean(kls)))} nats on average, at most {three(kls[worst])} at step {worst} "
            f"({reading.chosen(worst)})",
            f"平均 {three(float(np.mean(kls)))} 奈特，最大 {three(kls[worst])}，"
            f"在第 {worst} 步（{reading.chosen(worst)}）",
        ),
    )
    same = sum(
        each["chosen"] == mine["token"] for each, mine in zip(decisions, reading.decisions, strict=True)
    )
    yield (
        say("same choice", "选择相同"),
        say(f"{same} of {len(decisions)} decisions", f"{len(decisions)} 步中有 {same} 步"),
    )
    first = section.get("first_divergent")
    if first is None:
        told = say("none: B would have written the same text", "没有：B 会写出同样的文本")
    else:
        each = decisions[first]
        told = say(
            f"step {first}: A says {reading.chosen(first)} ({percent(each['probability'][0])}, "
            f"{percent(each['probability'][1])} in B), B would say {token_text(each['text'])}",
            f"第 {first} 步：A 说 {reading.chosen(first)}（{percent(each['probability'][0])}，在 B 里 "
            f"{percent(each['probability'][1])}），B 会说 {token_text(each['text'])}",
        )
    yield say("first difference", "首个分歧"), told


def _film(reading: Reading, section: Document) -> Iterator[Part]:
    say, decisions = reading.say, section["decisions"]
    most = max((each["kl"] for each in decisions), default=0.0) or 1.0
    frames = [
        Frame(
            reading.chosen(step),
            each["kl"] / most,
            (
                three(each["kl"]),
                "=" if _same(reading, step, each) else f"→{token_text(each['text'])}",
                f"#{step}",
            ),
        )
        for step, each in enumerate(decisions[:_FRAMES])
    ]
    yield Film(frames)
    yield Prose(
        say(
            "Below each token of A: KL(A ‖ B) in nats; = if B would choose the same, else what it would say.",
            "A 的每个词元下面依次是：KL(A ‖ B)，单位奈特；B 会选同一个则为 =，否则写出它会说什么。",
        ),
        faint=True,
    )


def _apart(reading: Reading, section: Document) -> Iterator[Part]:
    """The decisions in which the two would not say the same."""
    say = reading.say
    rows = [
        [
            f"#{step}", reading.chosen(step), *map(percent, each["probability"]),
            str(each["rank"] + 1), token_text(each["text"]), three(each["kl"]),
        ]
        for step, each in enumerate(section["decisions"])
        if not _same(reading, step, each)
    ]  # fmt: skip
    if rows:
        yield Table(
            [
                Column("#"), Column(say("A says", "A 说")), Column("p(A)", numeric=True),
                Column("p(B)", numeric=True), Column(say("rank in B", "在 B 的名次"), numeric=True),
                Column(say("B would say", "B 会说")), Column("KL", numeric=True),
            ],
            rows[:_APART],
        )  # fmt: skip
        if len(rows) > _APART:
            yield Prose(
                say(f"… and {len(rows) - _APART} more.", f"……还有 {len(rows) - _APART} 个。"), faint=True
            )


def _layers(reading: Reading, section: Document, step: int | None = None) -> Iterator[Part]:
    """How far the streams are apart after each layer: at one decision, or over all of them."""
    say = reading.say
    if section.get("cosine") is None:
        return
    away = 1.0 - np.asarray(unpacked(section["cosine"], "cosine"), np.float64)  # [decisions, layers]
    if step is None:
        columns = {
            say("1 − cosine, mean", "1 − 余弦，平均"): away.mean(axis=0),
            say("largest", "最大"): away.max(axis=0),
        }
    else:
        columns = {say("1 − cosine", "1 − 余弦"): away[step]}
    drawn = next(iter(columns.values()))
    most = float(drawn.max()) or 1.0
    yield Heading(say("How far the residual streams part", "残差流逐层偏离多少"), 2)
    yield Bars(
        say("after", "之后"),
        tuple(columns),
        [
            Bar(
                f"L{layer}",
                float(drawn[layer]) / most,
                tuple(three(max(float(column[layer]), 0.0)) for column in columns.values()),
            )
            for layer in range(len(drawn))
        ],
    )


def _same(reading: Reading, step: int, each: Document) -> bool:
    return bool(each["chosen"] == reading.decisions[step]["token"])
