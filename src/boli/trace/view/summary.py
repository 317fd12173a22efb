"""The run in one screen or two: what was asked, what came, how sure, decided where, and at what price."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from boli.trace.view.books import limits, prefill, spent
from boli.trace.view.numbers import difference, many, percent, seconds, size, three
from boli.trace.view.parts import Column, Facts, Film, Frame, Heading, Part, Prose, Table
from boli.trace.view.reading import Reading
from boli.trace.view.shown import quoted, shown, token_text
from boli.trace.view.wall import film_wall

_FRAMES: Final = 40  # tokens of the answer that the film shows
_WALL: Final = 8
_UNSURE: Final = 5


def summary(reading: Reading) -> Iterator[Part]:
    """The chapters that are told if nobody asks for a step."""
    say = reading.say
    yield Heading(say("The run", "这次运行"))
    yield Facts(list(_about(reading)))
    if not reading.decisions:
        yield Prose(
            say("Nothing was generated, so nothing was decided.", "没有生成任何词元，也就没有任何选择。")
        )
        return
    yield Heading(say("The answer, token by token", "回答，一个词元一个词元地看"))
    yield from _film(reading)
    yield from _unsure(reading)
    wall = list(film_wall(reading, range(min(len(reading.decisions), _WALL)), brief=True))
    if wall:
        yield Heading(say("What each layer would have said", "如果停在这一层，模型会说什么"))
        yield from wall
    yield Heading(say("Where the time and the bytes went", "时间和字节花在哪里"))
    yield from prefill(reading)
    step = usual_step(reading)
    count = len(reading.decisions) - 1
    told = say("The one generated token:", "生成的这一个词元：")
    if count > 0:
        told = say(
            f"One generated token, #{step}: of {count} it is the one in the middle by time.",
            f"生成一个词元，以 #{step} 为例：{count} 个里按用时排在正中的那个。",
        )
    yield Prose(told)
    yield from spent(reading, step)
    yield from limits(reading)


def usual_step(reading: Reading) -> int:
    """The decision that took neither long nor short; not the first, which comes out of the prompt's step."""
    later = range(1, len(reading.decisions))
    order = sorted(later, key=lambda step: reading.decisions[step]["time"]["total"])
    return order[len(order) // 2] if order else 0


def _about(reading: Reading) -> Iterator[tuple[str, str]]:
    say, document, model = reading.say, reading.document, reading.model
    run, text = document["run"], document["text"]
    yield (
        say("model", "模型"),
        shown(
            say(
                f"{reading.name}: {model['family']}, {many(model['parameters'])} parameters in "
                f"{model['num_hidden_layers']} layers of {model['hidden_size']}, {size(model['bytes'])}",
                f"{reading.name}：{model['family']}，{many(model['parameters'])} 参数，"
                f"{model['num_hidden_layers']} 层，宽 {model['hidden_size']}，{size(model['bytes'])}",
            )
        ),
    )
    machine = document["machine"]
    yield (
        say("machine", "机器"),
        shown(
            say(
                f"{machine['cpu']}, {machine['threads']} thread{'s' * (machine['threads'] != 1)}",
                f"{machine['cpu']}，{machine['threads']} 线程",
            )
        ),
    )
    yield say("prompt", "提示"), quoted(text["prompt"], 150)
    yield say("answer", "回答"), quoted(text["answer"], 300)
    known = run["reused_tokens"]
    yield (
        say("tokens", "词元"),
        say(
            f"{run['prompt_length']} read"
            + (f" ({known} of them known from an earlier request)" if known else "")
            + f", {run['generated']} generated, ended by {run['finish_reason']}",
            f"读入 {run['prompt_length']} 个"
            + (f"（其中 {known} 个由先前的请求算过）" if known else "")
            + f"，生成 {run['generated']} 个，结束原因 {run['finish_reason']}",
        ),
    )
    yield say("chosen", "取词"), _sampling(reading, run["sampling"], run["seed"])
    timings = run["timings"]
    first, rest, rate = (
        float(timings.get(name) or 0.0) for name in ("prefill_s", "decode_s", "decode_tokens_per_s")
    )
    if first or rest:
        yield (
            say("the run took", "运行用时"),
            say(
                f"{seconds(first)} to the first token, {seconds(rest)} for the rest",
                f"到第一个词元 {seconds(first)}，其余 {seconds(rest)}",
            )
            + (f" ({rate:.0f} tokens/s)" if rate else ""),
        )
    price = document["price"]
    foretold = size(price["bytes_predicted"])
    if price["seconds_predicted"] is not None:
        foretold += say(", ", "，") + seconds(price["seconds_predicted"])
    yield (
        say("this trace", "这份记录"),
        say(
            f"{document['detail']}: {size(price['bytes'])} in {seconds(price['seconds'])}; announced "
            f"{foretold}",
            f"{document['detail']}：{size(price['bytes'])}，用时 {seconds(price['seconds'])}；事先预报 "
            f"{foretold}",
        ),
    )
    others = [each for each in price.get("offers") or () if each["detail"] != document["detail"]]
    if others:
        yield say("otherwise", "其他档位"), say("; ", "；").join(_offer(reading, each) for each in others)
    yield say("proof", "凭据"), proof(reading)


def _offer(reading: Reading, offer: Any) -> str:
    """What another detail was announced to take."""
    say = reading.say
    told = size(offer["bytes"]) if offer["bytes"] else say("no arrays", "不存数组")
    if offer["seconds"] is not None:
        told += say(", ", "，") + seconds(offer["seconds"])
    return f"{shown(offer['detail'])}{say(': ', '：')}{told}"


def proof(reading: Reading) -> str:
    """How the replay compares with the run that it replays, and with itself."""
    say, proof = reading.say, reading.document["proof"]
    logit, logprob, compared = (
        proof["largest_logit_difference"], proof["largest_logprob_difference"], proof["compared"],
    )  # fmt: skip
    if not proof["same_model"]:
        return say(
            f"none: another model's run; its {compared} tokens were put through this one",
            f"无：这是另一个模型的运行，它的 {compared} 个词元在这里重走一遍",
        )
    same = "✗" if logit or logprob else "✓"
    told = say(
        f"{same} {compared} tokens replayed; largest difference from the run: {difference(logit)} in a logit",
        f"{same} 重放 {compared} 个词元，与当时的运行相比：logit 最大相差 {difference(logit)}",
    )
    if logprob is not None:
        told += say(
            f", {difference(logprob)} in a log-probability", f"，对数概率最大相差 {difference(logprob)}"
        )
    reproduced = proof["sampler_reproduced"]
    told += say(
        f"; the sampler chose the same token {reproduced} times", f"；采样器 {reproduced} 次选出同一个词元"
    )
    for each in proof["differences"]:
        told += f"; {shown(each)}"
    return told


def _sampling(reading: Reading, sampling: Any, seed: int) -> str:
    say = reading.say
    parts = []
    if sampling["temperature"] == 0.0:
        parts.append(say("greedy, always the most likely", "贪心：总取最可能的"))
    else:
        parts.append(
            say(
                f"drawn at temperature {sampling['temperature']:g}",
                f"按温度 {sampling['temperature']:g} 抽取",
            )
        )
    for name, idle in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0), ("repetition_penalty", 1.0),
                       ("presence_penalty", 0.0), ("frequency_penalty", 0.0)):  # fmt: skip
        if sampling[name] != idle:
            parts.append(f"{name.replace('_', '-')} {sampling[name]:g}")
    if sampling["temperature"]:
        parts.append(say(f"seed {seed}", f"种子 {seed}"))
    return say(", ", "，").join(parts)


def _film(reading: Reading) -> Iterator[Part]:
    say, decisions = reading.say, reading.decisions
    frames = []
    for step, decision in enumerate(decisions[:_FRAMES]):
        probability = _probability(decision)
        leads = decision["lens"]["first_leads"]
        place = f"L{leads}" if leads is not None else "–"
        frames.append(Frame(reading.chosen(step), probability, (percent(probability), place, f"#{step}")))
    yield Film(frames)
    left = len(decisions) - len(frames)
    if left > 0:
        yield Prose(
            say(
                f"… and {left} more: --step N looks into any of them.",
                f"……还有 {left} 个，用 --step N 细看。",
            )
        )
    last = reading.model["num_hidden_layers"] - 1
    yield Prose(
        say(
            f"Below each token: the probability that the model gave it, the layer (0 to {last}) from "
            f"which it leads "
            "to the end, its number for --step.",
            f"每个词元下面依次是：模型给它的概率；从哪一层（0–{last}）起它一路领先到底；在 --step 里的编号。",
        ),
        faint=True,
    )


def _unsure(reading: Reading) -> Iterator[Part]:
    """The decisions that could most easily have gone another way."""
    say, decisions = reading.say, reading.decisions
    if len(decisions) < 2 * _UNSURE:
        return
    order = sorted(range(len(decisions)), key=lambda step: -decisions[step]["entropy"])[:_UNSURE]
    rows = []
    for step in order:
        decision = decisions[step]
        others = [other for other in decision["top"] if other["id"] != decision["token"]][:3]
        rows.append(
            [
                f"#{step}",
                reading.chosen(step),
                percent(_probability(decision)),
                three(decision["entropy"]),
                "  ".join(f"{token_text(other['text'])} {percent(other['probability'])}" for other in others),
            ]
        )
    yield Heading(say("Where it was least sure", "最拿不准的地方"), 2)
    yield Table(
        [
            Column("#"), Column(say("token", "词元")), Column("p", numeric=True),
            Column(say("entropy", "熵"), numeric=True), Column(say("others", "其他候选")),
        ],
        rows,
    )  # fmt: skip


def _probability(decision: Any) -> float:
    """What the model gave the chosen token, before the sampler."""
    return float(decision["lens"]["probability"][-1])


def closer(reading: Reading) -> Iterator[Part]:
    """What one may ask for next; the least sure decision is the most interesting one."""
    say = reading.say
    if not reading.decisions:
        return
    step = max(range(len(reading.decisions)), key=lambda number: reading.decisions[number]["entropy"])
    layer = min(reading.decisions[step]["lens"]["first_leads"] or 0, len(reading.layers) - 1)
    yield Heading(say("Look closer", "细看"), 2)
    yield Facts(
        [
            (
                f"--step {step}",
                say("how one token was chosen, chapter by chapter", "一个词元是怎样选出来的，逐章讲解"),
            ),
            (f"--step {step} --layer {layer}", say("one layer, matrix by matrix", "一层之内，逐个矩阵")),
            (f"--step {step} --layer {layer} --head 0", say("where one head looked", "一个注意力头在看哪里")),
            (
                "--html FILE",
                say("everything on one page, to click through", "全部内容做成一个网页，可以点着看"),
            ),
        ]
    )
