"""How the sampler chose: every candidate on its way through penalties, temperature, filters and the draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from boli.trace.view.layer import formula
from boli.trace.view.numbers import percent
from boli.trace.view.parts import Bucket, Column, Part, Prose, Ruler, Table
from boli.trace.view.prose import explained
from boli.trace.view.reading import Document, Reading
from boli.trace.view.shown import token_text

_CANDIDATES: Final = 12
_BARRED: Final = 8
_GAP: Final = 1e-4  # of the interval that may go without a bucket of its own


def sieve(reading: Reading, step: int) -> Iterator[Part]:
    """The candidates of a decision, what cut them, and the number that was drawn."""
    say, sampler = reading.say, reading.decision(step)["sampler"]
    sampling = reading.document["run"]["sampling"]
    penalised = any(each["penalised"] != each["logit"] for each in sampler["candidates"])
    greedy = sampler["greedy"]
    for key, used in (
        ("penalties", penalised),
        ("grammar", sampler.get("grammar") is not None),
        ("temperature", not greedy),
        ("filters", not greedy and any(each["cut"] for each in sampler["candidates"])),
        ("draw", not greedy),
    ):
        if used and key == "grammar":
            yield from _grammar(reading, sampler["grammar"])
        elif used and key in reading.stages:
            yield Prose(explained(reading, key))
            yield formula(reading, key)
    if greedy:
        yield Prose(
            say(
                "Temperature 0: the largest logit is taken, nothing is drawn.",
                "温度为 0：直接取 logit 最大的，不抽取。",
            )
        )
    yield _candidates(reading, sampler, penalised=penalised)
    yield _rest(reading, sampler)
    if sampler["uniform"] is not None:
        yield from _draw(reading, sampler, sampling)


def _grammar(reading: Reading, grammar: Document) -> Iterator[Part]:
    say, share = reading.say, percent(grammar["probability"])
    allowed, whole = f"{grammar['allowed']:,}", f"{grammar['vocabulary']:,}"
    yield Prose(
        say(
            f"Allowed by the grammar: {allowed} of {whole} tokens, {share} of the probability.",
            f"语法允许：{whole} 个词元中的 {allowed} 个，占 {share} 的概率。",
        )
    )
    if grammar["barred"]:
        yield Table(
            [
                Column(say("barred", "被排除的词元")),
                Column("id", numeric=True),
                Column("logit", numeric=True),
                Column("p", numeric=True),
            ],
            [
                [
                    token_text(each["text"]),
                    str(each["id"]),
                    f"{each['logit']:.3f}",
                    percent(each["probability"]),
                ]
                for each in grammar["barred"][:_BARRED]
            ],
        )


def _candidates(reading: Reading, sampler: Document, *, penalised: bool) -> Table:
    say, greedy = reading.say, sampler["greedy"]
    listed = sampler["candidates"][:_CANDIDATES]
    listed += [each for each in sampler["candidates"][_CANDIDATES:] if each["id"] == sampler["chosen"]]
    columns = [
        Column(""),
        Column(say("token", "词元")),
        Column("id", numeric=True),
        Column("logit", numeric=True),
    ]
    if penalised:
        columns.append(Column(say("penalised", "惩罚后"), numeric=True))
    if not greedy:
        columns.append(Column("÷ T", numeric=True))
    columns.append(Column("p", numeric=True))
    if not greedy:
        columns += [
            Column(say("cut by", "筛掉")),
            Column(say("final", "最终"), numeric=True),
            Column(say("bucket", "区间")),
        ]
    rows = []
    for each in listed:
        row = [
            "▸" if each["id"] == sampler["chosen"] else "",
            token_text(each["text"]),
            str(each["id"]),
            f"{each['logit']:.3f}",
        ]
        if penalised:
            row.append(f"{each['penalised']:.3f}")
        if not greedy:
            row.append(f"{each['scaled']:.3f}")
        row.append(percent(each["probability"]))
        if not greedy:
            bucket = each["bucket"]
            row += [
                each["cut"].replace("_", "-") if each["cut"] else "",
                percent(each["final"]) if each["final"] else "",
                f"{bucket[0]:.4f}–{bucket[1]:.4f}" if bucket else "",
            ]
        rows.append(row)
    strong = frozenset(n for n, each in enumerate(listed) if each["id"] == sampler["chosen"])
    return Table(columns, rows, strong)


def _rest(reading: Reading, sampler: Document) -> Prose:
    listed = min(len(sampler["candidates"]), _CANDIDATES)
    hidden = sampler["candidates"][_CANDIDATES:]
    count = sampler["rest"]["count"] + len(hidden)
    share = sampler["rest"]["probability"] + sum(each["probability"] for each in hidden)
    kept = sampler["kept"]
    others = reading.say(
        f"The {listed} likeliest; {count:,} others share {percent(share)}.",
        f"只列最可能的 {listed} 个；其余 {count:,} 个合占 {percent(share)}。",
    )
    if not count and sampler.get("grammar"):
        others = reading.say("No other token is allowed.", "此外没有允许的词元。")
    left = reading.say(
        f" {kept:,} {'are' if kept != 1 else 'is'} left to draw from.", f"筛完还剩 {kept:,} 个可抽。"
    )
    return Prose(others if sampler["greedy"] else others + left, faint=True)


def _draw(reading: Reading, sampler: Document, sampling: Document) -> Iterator[Part]:
    say, number = reading.say, sampler["uniform"]
    buckets: list[Bucket] = []
    hit, reached = 0, 0.0
    for each in sorted(
        (each for each in sampler["candidates"] if each["bucket"]), key=lambda each: each["bucket"]
    ):
        low, high = each["bucket"]
        if low - reached > _GAP:  # of tokens that are not listed
            buckets.append(Bucket("…", reached, low))
        if each["id"] == sampler["chosen"]:
            hit = len(buckets)
        buckets.append(Bucket(token_text(each["text"]), low, high))
        reached = high
    if 1.0 - reached > _GAP:
        buckets.append(Bucket("…", reached, 1.0))
    yield Ruler(buckets, number, hit)
    seed = reading.document["run"]["seed"]
    yield Prose(
        say(
            f"Random number {step_of(reading, sampler)} of seed {seed} is {number:.6f}: it falls into "
            f"{buckets[hit].low:.4f}–{buckets[hit].high:.4f}, the bucket of {buckets[hit].text}.",
            f"种子 {seed} 的第 {step_of(reading, sampler)} 个随机数是 {number:.6f}，落在 "
            f"{buckets[hit].text} 的区间 "
            f"{buckets[hit].low:.4f}–{buckets[hit].high:.4f} 里。",
        )
    )


def step_of(reading: Reading, sampler: Document) -> int:
    """The number of the decision that a sampler's chain belongs to."""
    return next(n for n, decision in enumerate(reading.decisions) if decision["sampler"] is sampler)
