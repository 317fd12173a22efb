"""One decision in depth: from the text to the token that was chosen, chapter by chapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from boli.trace.view.books import pages, row_bytes, spent
from boli.trace.view.layer import formula, layer_walk, numbers, weights_table
from boli.trace.view.numbers import difference, percent, seconds, size, three
from boli.trace.view.parts import Column, Facts, Heading, Part, Prose, Table
from boli.trace.view.prose import explained
from boli.trace.view.reading import Reading
from boli.trace.view.shown import quoted, shown, token_text
from boli.trace.view.sieve import sieve
from boli.trace.view.wall import lens_table

_TOKENS: Final = 12  # rows of the table of tokens
_LOGITS: Final = 8


def decision_walk(reading: Reading, step: int) -> Iterator[Part]:
    """All chapters of one decision."""
    say, decision = reading.say, reading.decision(step)
    chosen = reading.chosen(step)
    yield Heading(say(f"How {chosen} was chosen (step {step})", f"{chosen} 是怎样选出来的（第 {step} 步）"))
    yield from _text(reading, step)
    yield from _embedding(reading, step)
    yield from _layers(reading, step)
    leads = decision["lens"]["first_leads"]
    yield from layer_walk(reading, step, len(reading.layers) - 1 if leads is None else leads)
    yield Heading(say("What each layer would have said", "如果停在这一层，模型会说什么"))
    yield from lens_table(reading, step)
    yield _when(reading, step)
    yield from _head(reading, step)
    yield Heading(say("The sampler", "采样器"))
    yield from sieve(reading, step)
    yield Heading(say("The KV cache", "KV 缓存"))
    yield from pages(reading, step)
    yield Heading(say("What this token cost", "这个词元的代价"))
    rows = decision["time"]["rows"]
    if rows > 1:
        yield Prose(
            say(
                f"It came out of the step that read the prompt's last {rows} tokens together; all of "
                f"them share "
                "this time.",
                f"它出自读入提示最后 {rows} 个词元的那一步，这些词元一起分摊下面的时间。",
            )
        )
    yield from spent(reading, step)
    yield from _proof(reading, step)


def _text(reading: Reading, step: int) -> Iterator[Part]:
    say, document, at = reading.say, reading.document, reading.decisions[step]["at"]
    messages = document["text"]["messages"]
    if messages:
        yield Heading(say("From messages to one text", "从对话到一篇文本"))
        yield Prose(explained(reading, "template"))
        yield Table(
            [Column("#", numeric=True), Column(say("role", "角色")), Column(say("content", "内容"))],
            [
                [str(n), shown(str(m.get("role"))), quoted(str(m.get("content")), 120)]
                for n, m in enumerate(messages)
            ],
        )
        yield Facts([(say("the text", "成文"), quoted(document["text"]["prompt"], 300))])
    yield Heading(say("From text to tokens", "从文本到词元"))
    yield Prose(explained(reading, "tokenize"))
    first = max(at + 1 - _TOKENS, 0)
    rows = []
    for position in range(first, at + 1):
        token = reading.tokens[position]
        span = token["span"]
        whence = say("answer", "回答") if token["generated"] else say("prompt", "提示")
        if token["message"] is not None and messages:
            whence = f"{token['message']} {shown(str(messages[token['message']].get('role')))}"
        elif messages and not token["generated"]:
            whence = say("template", "模板")
        rows.append(
            [
                str(position), str(token["id"]), shown(token["piece"]), reading.token(position),
                f"{span[0]}:{span[1]}" if span else "", whence,
            ]
        )  # fmt: skip
    yield Table(
        [
            Column("#", numeric=True), Column("id", numeric=True), Column(say("piece", "词表条目")),
            Column(say("text", "文本")), Column(say("span", "范围"), numeric=True),
            Column(say("from", "来自")),
        ],
        rows,
        frozenset({len(rows) - 1}),
    )  # fmt: skip
    before = say(f"{first} more stand before these. ", f"前面还有 {first} 个。") if first else ""
    yield Prose(
        before
        + say(
            "What follows happens to the last one; the others were there before it, and their keys and "
            "values wait "
            "in the cache.",
            "下面讲的都发生在最后一个词元身上；前面的早已算过，它们的键和值就在缓存里。",
        ),
        faint=True,
    )


def _embedding(reading: Reading, step: int) -> Iterator[Part]:
    say, decision = reading.say, reading.decisions[step]
    token = reading.tokens[decision["at"]]
    yield Heading(say("From a number to a vector", "从编号到向量"))
    yield Prose(explained(reading, "embedding"))
    yield formula(reading, "embedding")
    tables = reading.weights(["embedding"], None)
    yield from weights_table(reading, tables)
    facts = [
        (say("row", "取出的行"), f"{token['id']}  {reading.token(decision['at'])}"),
        (say("length of x", "x 的长度"), three(decision["norms"]["residual"][0])),
    ]
    if tables:
        facts.insert(1, (say("reads", "读取"), size(row_bytes(reading))))
    vector = reading.value(step, "embedding", 0)
    if vector is not None:
        facts.append(("x", numbers(vector)))
    yield Facts(facts)
    yield Prose(explained(reading, "positions"))


def _layers(reading: Reading, step: int) -> Iterator[Part]:
    say, decision = reading.say, reading.decisions[step]
    norms, lens, times = decision["norms"], decision["lens"], decision["time"]["layers"]
    yield Heading(say(f"Through {len(reading.layers)} layers", f"穿过 {len(reading.layers)} 层"))
    yield Prose(
        say(
            "Each layer reads x, looks back at earlier tokens (attention), thinks about what it found "
            "(MLP), and adds "
            "both to x. Lengths say how much each added.",
            "每一层先读 x，再回看前面的词元（注意力），然后对看到的内容加工一番（MLP），"
            "两次的结果都加回 x。长度说明各加了多少。",
        )
    )
    rows = []
    for layer, facts in enumerate(reading.layers):
        top = lens["top"][layer][0] if layer < len(lens["top"]) else None
        rows.append(
            [
                f"L{layer}",
                say("all", "全部") if facts["window"] is None else str(facts["window"]),
                size(facts["bytes"]),
                seconds(sum(times[layer])) if layer < len(times) else "",
                three(norms["attention_branch"][layer]),
                three(norms["mlp_branch"][layer]),
                three(norms["residual"][layer + 1]),
                f"{token_text(top['text'])} {percent(top['probability'])}" if top else "",
            ]
        )
    first = lens["first_leads"]
    yield Table(
        [
            Column(""), Column(say("sees", "视野")), Column(say("weights", "权重"), numeric=True),
            Column(say("time", "时间"), numeric=True, spare=True),
            Column(say("|attn|", "|注意力|"), numeric=True),
            Column("|MLP|", numeric=True), Column("|x|", numeric=True), Column(say("would say", "会说")),
        ],
        rows,
        frozenset({first}) if first is not None else frozenset(),
    )  # fmt: skip


def _when(reading: Reading, step: int) -> Prose:
    say, lens = reading.say, reading.decisions[step]["lens"]
    chosen, first = reading.chosen(step), lens["first_leads"]
    if first is None:
        return Prose(
            say(
                f"{chosen} never leads to the end: it was drawn although another token was likelier.",
                f"{chosen} 从未领先到底：另有词元更可能，只是抽中了它。",
            )
        )
    return Prose(
        say(
            f"From layer {first} on {chosen} is first and stays there. What layers say is seen through "
            f"the last "
            "norm and the head, for which early layers were not trained: a hint at what is known there, "
            "not a thought.",
            f"从第 {first} 层起，{chosen} 一直排第一。这是借末层归一化和输出层看到的；"
            f"早期的层没有为此训练过，"
            "所以只能看作那里已知道什么的线索。",
        )
    )


def _head(reading: Reading, step: int) -> Iterator[Part]:
    say, decision = reading.say, reading.decisions[step]
    yield Heading(say("From a vector to probabilities", "从向量到概率"))
    for key in ("final_norm", "head"):
        if key in reading.stages:
            yield Prose(explained(reading, key))
            yield formula(reading, key)
            yield from weights_table(reading, reading.weights(reading.stages[key]["roles"], None))
    rows = [
        [
            "▸" if each["id"] == decision["token"] else "", token_text(each["text"]), str(each["id"]),
            f"{each['logit']:.4f}", percent(each["probability"]),
        ]
        for each in decision["top"][:_LOGITS]
    ]  # fmt: skip
    strong = frozenset(
        n for n, each in enumerate(decision["top"][:_LOGITS]) if each["id"] == decision["token"]
    )
    yield Table(
        [
            Column(""),
            Column(say("token", "词元")),
            Column("id", numeric=True),
            Column("logit", numeric=True),
            Column("p", numeric=True),
        ],
        rows,
        strong,
    )
    yield Prose(
        say(f"Entropy {three(decision['entropy'])} nats.", f"熵 {three(decision['entropy'])} 奈特。"),
        faint=True,
    )


def _proof(reading: Reading, step: int) -> Iterator[Part]:
    say, decision = reading.say, reading.decisions[step]
    recorded = decision.get("recorded")
    if not recorded:
        return
    off = abs(recorded["logit"] - decision["logit"])
    yield Prose(
        say(
            f"The run recorded a logit of {recorded['logit']:.6f} for {reading.chosen(step)}; this "
            f"replay computed "
            f"{decision['logit']:.6f}: a difference of {difference(off)}.",
            f"运行时记录的 {reading.chosen(step)} 的 logit 是 {recorded['logit']:.6f}，这次重放算得 "
            f"{decision['logit']:.6f}：相差 {difference(off)}。",
        )
    )
