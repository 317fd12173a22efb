"""What each stage is for, in a few sentences that name this model's own sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from boli.trace.view.reading import Reading
from boli.trace.view.shown import shown

# Sizes in braces are those of the model, see `_sizes`. First in English, then in Chinese.
_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "tokenize": (
        "A model does not read letters. The text is cut into pieces of a vocabulary of {vocab_size:,} "
        "entries; what "
        "goes on is the number of each piece.",
        "模型不认字。文本先按一张有 {vocab_size:,} 个条目的词表切成词元，往下传的只是每个词元的编号。",
    ),
    "template": (
        "A conversation becomes one text first: the template writes down who said what, with marks that "
        "the model was "
        "trained on. To the model it is a text like any other.",
        "对话先变成一篇文本：模板按训练时的格式写明谁说了什么。在模型眼里，这和别的文本没有两样。",
    ),
    "embedding": (
        "The id picks one row of a table with a row for each entry of the vocabulary: {hidden_size} "
        "numbers. They are "
        "the token's first meaning, without any context, and the beginning of the residual stream x.",
        "用编号在词嵌入表里取出一行：{hidden_size} 个数。这是词元还没有上下文时的含义，也是残差流 x 的起点。",
    ),
    "positions:rope": (
        "Where a token stands is not written into x. Each layer turns its queries and keys by an angle "
        "that grows with "
        "the position (RoPE), so that a score depends on the distance.",
        "位置并不写进 x。每一层把查询和键旋转一个随位置增大的角度（RoPE），打分因此只取决于两者相距多远。",
    ),
    "positions:learned": (
        "Where a token stands is added to x: a learned vector for each position.",
        "位置直接加进 x：每个位置有一个学出来的向量。",
    ),
    "attention_norm": (
        "x is brought to a common length first, so that no layer depends on how large the sums before "
        "it became; then "
        "each of the {hidden_size} numbers gets its own weight.",
        "先把 x 缩放到统一的大小，免得后面的计算受前面累加出的大小影响；再给 {hidden_size} "
        "个数各乘一个权重。",
    ),
    "qkv": (
        "Three products make three vectors: the query says what this token looks for, the key what it "
        "offers to be "
        "found by, the value what it passes on. {num_attention_heads} heads of {head_dim} numbers ask; "
        "keys and values have {num_key_value_heads}{shared}.",
        "三个矩阵乘出三个向量：查询 q 说这个词元在找什么，键 k 说别人凭什么找到它，值 v "
        "是找到之后交出的内容。"
        "查询有 {num_attention_heads} 个头，每个头 {head_dim} 个数；键和值有 {num_key_value_heads} "
        "个头{shared}。",
    ),
    "rope": (
        "Pairs of numbers in q and k are turned by angles in proportion to the position: fast for some "
        "pairs, slow for "
        "others.{qk_norm} k and v go into the KV cache, so that later tokens need not compute them again.",
        "q 和 k 里的数两两成对，按位置旋转：有的对转得快，有的转得慢。{qk_norm}k 和 v 写入 KV 缓存，"
        "后面的词元不必重算。",
    ),
    "scores": (
        "The query is multiplied with the key of every position: the larger the product, the better the "
        "match.",
        "查询与每个位置的键做点积：越大，说明越对得上。",
    ),
    "mask": ("{mask}", "{mask}"),
    "softmax": (
        "The scores of a head become shares that sum to 1. This is what the model looked at here; how "
        "much it mattered "
        "for the answer is another question. Many heads rest on the first token if they find nothing: read "
        "those shares as “nowhere”.",
        "每个头的分数变成总和为 1 的占比。它说明模型在这里看了哪里，至于对答案有多大作用，是另一回事。"
        "许多头找不到要找的东西时，会把目光停在第一个词元上：那样的占比应读作“哪儿也没看”。",
    ),
    "weighted_sum": (
        "Each head adds up the values of all positions in those shares: {num_attention_heads} × "
        "{head_dim} numbers.",
        "每个头按这些占比把各位置的值加起来：共 {num_attention_heads} × {head_dim} 个数。",
    ),
    "output_projection": (
        "One more product mixes what the heads found into {hidden_size} numbers.",
        "再乘一个矩阵，把各个头的所得混合成 {hidden_size} 个数。",
    ),
    "attention_residual": (
        "{post_norm}It is added to x. Nothing is overwritten: every layer only adds to the stream, and "
        "later ones read "
        "the sum.",
        "{post_norm}结果加到 x 上。什么都不覆盖：每一层只往残差流里添东西，后面的层读到的是总和。",
    ),
    "mlp_norm": (
        "The same again before the second half of the layer.",
        "进入这一层的后半部分之前，再归一化一次。",
    ),
    "gate_up:gated": (
        "Two products widen x to {intermediate_size} numbers each. One of them is the gate: it decides "
        "how much of the other passes. Much of what a model knows of the world is thought to sit in these "
        "matrices and the next.",
        "两个矩阵各把 x 展宽到 {intermediate_size} 个数，其中一个是门，决定另一个放行多少。"
        "一般认为，模型对世界的知识大多存在这几个矩阵里。",
    ),
    "gate_up:plain": (
        "A product widens x to {intermediate_size} numbers. Much of what a model knows of the "
        "world is thought to sit in this matrix and the next.",
        "一个矩阵把 x 展宽到 {intermediate_size} 个数。"
        "一般认为，模型对世界的知识大多存在这个矩阵和下一个矩阵里。",
    ),
    "activation:gated": (
        "{activation} bends the gate, and gate and up are multiplied number by number. Without a bend "
        "all layers "
        "together would be one matrix.",
        "门经过 {activation} 弯折，再与另一路逐个相乘。没有这道弯折，所有层合起来也不过是一个矩阵。",
    ),
    "activation:plain": (
        "{activation} bends each number. Without a bend all layers together would be one matrix.",
        "每个数经过 {activation} 弯折。没有这道弯折，所有层合起来也不过是一个矩阵。",
    ),
    "down": (
        "Back to {hidden_size} numbers.",
        "压回 {hidden_size} 个数。",
    ),
    "mlp_residual": (
        "{post_norm}It is added to x, and the next layer begins.",
        "{post_norm}结果加到 x 上，下一层开始。",
    ),
    "final_norm": (
        "After the last layer x is normed once more.",
        "最后一层之后，x 再归一化一次。",
    ),
    "head": (
        "One product with a row for each entry of the vocabulary gives {vocab_size:,} logits: how well "
        "each token would "
        "go on here.{tied} Softmax turns them into probabilities.",
        "再乘一个矩阵，词表里每个条目一行，得到 {vocab_size:,} 个 logit：接下来是它，有多合适。"
        "{tied}softmax 把它们变成概率。",
    ),
    "penalties": (
        "Tokens that were there before may be made less likely.",
        "出现过的词元可以降低分数。",
    ),
    "temperature": (
        "Logits are divided by the temperature: below 1 the favourites gain, above 1 the others.",
        "logit 除以温度：小于 1，领先的更占优；大于 1，其余的机会更大。",
    ),
    "filters": (
        "Unlikely tokens fall out: all but the k most likely (top-k), what is behind a share of p "
        "(top-p), what is far "
        "below the first (min-p). What is left is made to sum to 1 again.",
        "不太可能的词元被筛掉：只留前 k 个（top-k），只留累计到 p 为止的（top-p），"
        "去掉比第一名差太多的（min-p）。"
        "剩下的重新归一，总和为 1。",
    ),
    "draw": (
        "Each token that is left owns a piece of the interval from 0 to 1, as wide as its probability. "
        "A random number "
        "that depends on the seed and the position alone hits one of them.",
        "剩下的词元在 0 到 1 的区间上各占一段，宽度等于概率。"
        "一个只由种子和位置决定的随机数落在谁的段里，就选谁。",
    ),
}  # fmt: skip


_NAMED: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim",
)  # fmt: skip


def explained(reading: Reading, key: str, layer: int | None = None) -> str:
    """What a stage is for; "" for one that nothing is known of.

    Args:
        reading: Of the trace.
        key: The stage's.
        layer: Which layer's, for what differs between layers.
    """
    model = reading.model
    kinds = {
        "positions": model["positions"],
        "gate_up": "gated" if model["gated"] else "plain",
        "activation": "gated" if model["gated"] else "plain",
    }
    texts = _TEXTS.get(f"{key}:{kinds[key]}" if key in kinds else key)
    return reading.say(*texts).format_map(_sizes(reading, layer)) if texts else ""


def _sizes(reading: Reading, layer: int | None) -> dict[str, Any]:
    say, model = reading.say, reading.model
    group = model["num_attention_heads"] // max(model["num_key_value_heads"], 1)
    window = None if layer is None else reading.layers[layer]["window"]
    if window is None:
        mask = say(
            "What comes later is hidden: a token sees itself and all that is before it.",
            "后面的内容是遮住的：一个词元只看得见自己和前面的全部。",
        )
    else:
        mask = say(
            f"What comes later is hidden, and so is what lies further back than {window} positions: "
            f"this layer has a "
            "sliding window.",
            f"后面的内容是遮住的，{window} 个位置以前的也看不见：这一层用滑动窗口。",
        )
    return {
        **{name: model[name] for name in _NAMED},
        "activation": shown(str(model["activation"])),
        "mask": mask,
        "qk_norm": say(
            " Before that each head's q and k are normed, so that scores cannot grow without end.",
            "旋转之前，每个头的 q 和 k 先各自归一化，免得分数越来越大。",
        )
        if model["qk_norm"]
        else "",
        "post_norm": say("What was found is normed once more first. ", "所得先再归一化一次。")
        if model["post_norms"]
        else "",
        "shared": ""
        if group <= 1
        else say(
            f", each shared by {group} of those (grouped queries)", f"，每个供 {group} "
            f"个查询头共用（分组查询）"
        ),
        "tied": say(
            " It is the table of the embedding again, used the other way round (tied).",
            "用的还是词嵌入那张表，只是反过来用（共享权重）。",
        )
        if model["tied"]
        else "",
    }  # fmt: skip
