"""Where the milliseconds and the bytes of one token go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boli.trace.view.numbers import many, percent, seconds, size, three
from boli.trace.view.parts import Bar, Bars, Column, Facts, Part, Prose, Table
from boli.trace.view.reading import Document, Reading
from boli.trace.view.shown import shown

_WORTH: Final = 1e5  # bytes from which on it says something how fast they were read


@dataclass(frozen=True, slots=True)
class Entry:
    """What one stage takes in all layers: seconds, and bytes of weights and cache that it reads."""

    name: str
    seconds: float
    bytes: float


def entries(reading: Reading, step: int) -> list[Entry]:
    """The stages of the step that a decision came out of, in order."""
    say, time = reading.say, reading.decisions[step]["time"]
    positions = int(reading.decisions[step]["at"]) + 1
    rows = [Entry(say("embedding", "词嵌入"), time["embedding"], row_bytes(reading))]
    for number, name in enumerate(reading.timed(step)):
        keys = reading.stages_of(name)
        spent = sum(layer[number] for layer in time["layers"])
        read = sum(stage_bytes(layer, key, positions) for layer in reading.layers for key in keys)
        rows.append(Entry(reading.timed_title(name), spent, read))
    head = head_weight(reading)
    head_bytes = head["bytes"] if head else 0.0
    rows.append(Entry(say("final norm + head", "末层归一化 + 输出层"), time["head"], head_bytes))
    rows.append(Entry(say("sampling", "采样"), time["sampling"], 0.0))
    return rows


def stage_bytes(layer: Document, key: str, positions: int) -> float:
    """What a stage of a layer reads for one token that looks back on so many positions."""
    facts = layer["stages"].get(key, {})
    seen = min(positions, layer["window"] or positions)
    return float(facts.get("bytes", 0) + facts.get("bytes_per_position", 0) * seen)


def head_weight(reading: Reading) -> Document | None:
    """The matrix that makes logits: the head's own, or the embedding that it shares."""
    weights: dict[str, Document] = {weight["name"]: weight for weight in reading.document["weights"]}
    for weight in weights.values():
        if weight["role"] == "head":
            return weights.get(weight["tied_to"] or weight["name"], weight)
    return (
        next((w for w in weights.values() if w["role"] == "embedding"), None)
        if reading.model["tied"]
        else None
    )


def spent(reading: Reading, step: int) -> list[Part]:
    """Milliseconds and bytes of one token, stage by stage."""
    say = reading.say
    rows = entries(reading, step)
    inside = sum(row.seconds for row in rows)
    total = max(reading.decisions[step]["time"]["total"] + rows[-1].seconds, inside)
    if total - inside > 0.0005 * total:
        rows.append(Entry(say("everything else", "其余"), total - inside, 0.0))
    bars = [Bar(row.name, row.seconds / total if total else 0.0, _cells(row, total)) for row in rows]
    whole = Entry(say("together", "合计"), total, sum(row.bytes for row in rows))
    bars.append(Bar(whole.name, 0.0, _cells(whole, total), strong=True))
    columns = (say("time", "时间"), say("share", "占比"), say("reads", "读取"), "GB/s")
    return [Bars(say("stage", "步骤"), columns, bars)]


def limits(reading: Reading) -> list[Part]:
    """What the machine's memory and cores would allow, and what was measured."""
    document, say = reading.document, reading.say
    roofline = document.get("roofline")
    if not roofline or not roofline["read_bytes_per_s"]:
        return []
    read, computed = roofline["read_bytes_per_s"], roofline["operations_per_s"]
    kind = shown(roofline["operations_in"])
    prompt, run = roofline["prefill"], document["run"]
    # A prompt of which a part came out of the cache was read in less than its own time.
    first = None if run["reused_tokens"] else run["timings"].get("prefill_s")
    rows = [
        [
            name, size(amount), many(work), _binds(reading, amount, work),
            *(seconds(each) if each else "" for each in times),
        ]
        for name, amount, work, times in (
            (
                say("a token", "一个词元"),
                roofline["bytes_with_cache"] or roofline["bytes_per_token"], roofline["flops_per_token"],
                (roofline["predicted_seconds"], roofline["run_seconds"], roofline["measured_seconds"]),
            ),
            (
                say(f"prompt of {prompt['tokens']:,}", f"{prompt['tokens']:,} 个词元的提示"),
                prompt["bytes"], prompt["flops"],
                (prompt["predicted_seconds"], first, prompt["measured_seconds"]),
            ),
        )
    ]  # fmt: skip
    cores = (
        say(
            f", its cores do {many(computed)} {kind} operations a second",
            f"，每秒做 {many(computed)} 次 {kind} 运算",
        )
        if computed
        else ""
    )
    return [
        Prose(
            say(
                f"This machine reads {three(read / 1e9)} GB a second from memory{cores}. The prediction "
                "is what the slower of the two needs.",
                f"本机每秒从内存读 {three(read / 1e9)} GB{cores}。预测取两者中较慢的一个。",
            )
        ),
        Table(
            [
                Column(""),
                Column(say("reads", "读取"), numeric=True),
                Column(say("operations", "运算"), numeric=True),
                Column(say("limit", "受限于")),
                Column(say("predicted", "预测"), numeric=True),
                Column(say("run", "运行"), numeric=True),
                Column(say("replay", "重放"), numeric=True),
            ],
            rows,
        ),
    ]


def _binds(reading: Reading, amount: float, work: float) -> str:
    """Which limit is met first."""
    roofline, say = reading.document["roofline"], reading.say
    computed = roofline["operations_per_s"]
    if computed and work / computed > amount / roofline["read_bytes_per_s"]:
        return say("cores", "算力")
    return say("memory", "内存")


def pages(reading: Reading, step: int) -> list[Part]:
    """The pages of the KV cache that one decision sees."""
    say, kv = reading.say, reading.decisions[step]["kv"]
    model = reading.model
    page = model["page_size"]
    shared, numbers = kv["shared"], kv["pages"]
    marks = []
    for index in range(len(numbers)):
        used = min(kv["positions"] - index * page, page)
        marks.append("s" if index < shared else "█" if used >= page else "▄")
    meanings = (
        ("█", say("█ full", "█ 已满")),
        ("▄", say("▄ begun", "▄ 未满")),
        ("s", say("s shared with other requests", "s 与其他请求共用")),
    )
    facts = [
        (
            say("positions", "位置"),
            say(
                f"{kv['positions']:,} in {len(numbers)} page{'s' * (len(numbers) != 1)} of {page}",
                f"{kv['positions']:,} 个，占 {len(numbers)} 页，每页 {page} 个",
            ),
        ),
        (
            say("pages", "页"),
            "".join(marks[:200]) + "  " + "  ".join(text for mark, text in meanings if mark in marks),
        ),
        (
            say("numbers", "页号"),
            shown(", ".join(map(str, numbers[:24]))) + (" …" if len(numbers) > 24 else ""),
        ),
        (say("shared", "共用"), str(shared)),
        (
            say("bytes", "字节"),
            say(
                f"{size(kv['bytes_used'])} used of {size(kv['bytes_allocated'])} allocated; "
                f"predicted {size(kv['bytes_predicted'])}",
                f"已用 {size(kv['bytes_used'])}，已分配 {size(kv['bytes_allocated'])}；"
                f"预测 {size(kv['bytes_predicted'])}",
            ),
        ),
    ]
    if kv["skipped"]:
        told = say(
            f"{kv['skipped']} pages lie behind the window, and layers with one no longer read them",
            f"{kv['skipped']} 页已在窗口之外，带窗口的层不再读取",
        )
        facts.append((say("window", "窗口"), told))
    if kv["evicted"]:
        told = say(
            f"{kv['evicted']} cached pages of earlier requests were given up for this replay",
            f"为这次重放让出了先前请求缓存的 {kv['evicted']} 页",
        )
        facts.append((say("evicted", "逐出"), told))
    return [Facts(facts)]


def prefill(reading: Reading) -> list[Part]:
    """How the prompt was read."""
    say, steps = reading.say, reading.document["prompt_steps"]
    if not steps:
        return []
    rows, whole = sum(step["rows"] for step in steps), sum(step["seconds"] for step in steps)
    return [
        Prose(
            say(
                f"The prompt's {rows} tokens were read in {len(steps)} step{'s' * (len(steps) > 1)}, "
                f"all at once in "
                f"each: {seconds(whole)} in this replay.",
                f"提示的 {rows} 个词元分 {len(steps)} 步读完，每步并行处理：本次重放用时 {seconds(whole)}。",
            )
        )
    ]


def _cells(row: Entry, total: float) -> tuple[str, ...]:
    speed = three(row.bytes / row.seconds / 1e9) if row.bytes >= _WORTH and row.seconds else ""
    return (
        seconds(row.seconds),
        percent(row.seconds / total if total else 0.0),
        size(row.bytes) if row.bytes else "",
        speed,
    )


def row_bytes(reading: Reading) -> float:
    """Bytes of the one row of the embedding that is looked up."""
    tables = reading.weights(["embedding"], None)
    return tables[0]["bytes"] / max(tables[0]["shape"][0], 1) if tables else 0.0
