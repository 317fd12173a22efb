"""The stages of a token's way: what each computes, which weights it reads, and which code runs it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boli

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boli.blueprint.weights import Blueprint, Role


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        key: Its name in documents.
        en: Its title in English.
        zh: Its title in Chinese.
        code: File below the package, and the function in it that runs.
        roles: Weights that it reads.
        values: Probes that show what it gives.
        shape: Of what it gives for one token, in the names of the configuration.
    """

    key: str
    en: str
    zh: str
    code: tuple[str, str]
    roles: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    shape: str = ""


_HIDDEN, _INNER = "[hidden_size]", "[intermediate_size]"
_SEEN = "[num_attention_heads, positions]"
_HEADS = "[num_attention_heads, head_dim]"
_QKV = "[num_attention_heads + 2 · num_key_value_heads, head_dim]"

STAGES: Final = (
    Stage("tokenize", "Text to tokens", "分词", ("text/tokenizer.py", "encode"), shape="[tokens]"),
    Stage("template", "Chat template", "对话模板", ("text/template.py", "render"), shape="text"),
    Stage("embedding", "Embedding", "词嵌入", ("cpu/stages.py", "embed"),
          ("embedding",), ("embedding",), _HIDDEN),
    Stage("positions", "Positions", "位置", ("cpu/packing.py", "rope_table"),
          ("position_embedding",), (), "[positions, head_dim / 2]"),
    Stage("attention_norm", "Norm before attention", "注意力前归一化", ("cpu/stages.py", "prepare_norm"),
          ("attention_norm", "attention_norm_bias"), ("attention_norm",), _HIDDEN),
    Stage("qkv", "Queries, keys, values", "查询、键、值", ("cpu/stages.py", "project_qkv"),
          ("q", "k", "v", "qkv", "q_bias", "k_bias", "v_bias", "qkv_bias"), ("q", "k", "v"), _QKV),
    Stage("rope", "Turned by position", "旋转位置编码", ("cpu/heads.py", "turn_and_cache"),
          ("q_norm", "k_norm"), ("q_rotated", "k_rotated"), _QKV),
    Stage("scores", "Scores", "注意力分数", ("cpu/attention.py", "attend"), shape=_SEEN),
    Stage("mask", "Mask", "掩码", ("cpu/attention.py", "soften"), shape=_SEEN),
    Stage("softmax", "Softmax", "Softmax", ("cpu/attention.py", "soften"), shape=_SEEN),
    Stage("weighted_sum", "Weighted sum of values", "按权重求和", ("cpu/heads.py", "attention"),
          (), ("heads",), _HEADS),
    Stage("output_projection", "Output projection", "输出投影", ("cpu/stages.py", "project"),
          ("o", "o_bias"), ("attention_branch",), _HIDDEN),
    Stage("attention_residual", "Added to the stream", "并入残差流", ("cpu/stages.py", "close_branch"),
          ("post_attention_norm",), ("after_attention",), _HIDDEN),
    Stage("mlp_norm", "Norm before the MLP", "MLP 前归一化", ("cpu/stages.py", "prepare_norm"),
          ("mlp_norm", "mlp_norm_bias"), ("mlp_norm",), _HIDDEN),
    Stage("gate_up", "Gate and up", "门控与升维", ("cpu/stages.py", "gated_mlp"),
          ("gate", "up", "gate_bias", "up_bias"), ("gate", "up"), _INNER),
    Stage("activation", "Activation", "激活", ("cpu/kernels.py", "activate"), (), ("inner",), _INNER),
    Stage("down", "Down", "降维", ("cpu/stages.py", "project"),
          ("down", "down_bias"), ("mlp_branch",), _HIDDEN),
    Stage("mlp_residual", "Added to the stream", "并入残差流", ("cpu/stages.py", "close_branch"),
          ("post_mlp_norm",), ("residual",), _HIDDEN),
    Stage("final_norm", "Final norm", "末层归一化", ("cpu/step.py", "head"),
          ("final_norm", "final_norm_bias"), ("final_norm",), _HIDDEN),
    Stage("head", "Head", "输出层", ("cpu/step.py", "head"), ("head",), (), "[vocab_size]"),
    Stage("penalties", "Bias and penalties", "偏置与惩罚", ("engine/penalties.py", "apply"),
          shape="[vocab_size]"),
    Stage("temperature", "Temperature", "温度", ("engine/draw.py", "weights_of"), shape="[vocab_size]"),
    Stage("filters", "top-k, top-p, min-p", "top-k、top-p、min-p 筛选",
          ("engine/sampling.py", "distribution"), shape="[kept]"),
    Stage("draw", "Draw", "抽取", ("engine/draw.py", "pick"), shape="one token"),
)  # fmt: skip

# Where positions that were learned come in.
_LEARNED: Final = ("cpu/stages.py", "embed")

#: The stages that every layer goes through.
LAYER_STAGES: Final = frozenset(stage.key for stage in STAGES[4:18])


def describe_stages(blueprint: Blueprint) -> list[dict[str, object]]:
    """`stages` of the document, for a model's family."""
    config, equations = blueprint.config, _equations(blueprint)
    learned = config.rope is None
    return [
        {
            "key": stage.key,
            "title": {"en": stage.en, "zh": stage.zh},
            "equation": equations[stage.key],
            "source": source_of(*(_LEARNED if learned and stage.key == "positions" else stage.code)),
            "roles": list(stage.roles),
            "values": [name for name in stage.values if name != "gate" or config.gated_mlp],
            "shape": stage.shape,
        }
        for stage in STAGES
    ]


@cache
def source_of(file: str, function: str) -> str:
    """Where a function is defined, found in the source as it is installed: `cpu/stages.py:63 prepare_norm`.

    The source is parsed, not imported: a program that has compiled kernels never imports Numba.
    """
    text = (Path(boli.__file__).parent / file).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return f"{file}:{node.lineno} {function}"
    raise LookupError(f"{file} has no function {function}")


def _equations(blueprint: Blueprint) -> Mapping[str, str]:
    """What each stage computes, as this family computes it."""
    config = blueprint.config

    def bias(*roles: Role) -> str:
        return " + b" if any(blueprint.find(role, 0) for role in roles) else ""

    if config.norm == "rms":
        norm = f"x̂ = x / √(mean(x²) + {config.norm_eps:g}) · w"
    else:
        norm = f"x̂ = (x − mean(x)) / √(var(x) + {config.norm_eps:g}) · w + b"
    act = {"gelu_tanh": "gelu"}.get(config.activation, config.activation)
    scale = "" if config.embedding_scale == 1.0 else f" · {config.embedding_scale:g}"
    learned = config.rope is None
    turned = (
        "q, k stay as they are: positions were added at the start" if learned else "q, k = R(p) q, R(p) k"
    )
    if config.qk_norm:
        turned = "q, k = R(p) norm(q), R(p) norm(k)"
    windowed = any(config.window_of(layer) for layer in range(config.num_hidden_layers))
    behind = f", and in layers with a window for j ≤ i − {config.sliding_window}" if windowed else ""
    added = bias("q_bias", "qkv_bias")
    first, last = ("norm(o)", "norm(d)") if config.post_norms else ("o", "d")
    return {
        "tokenize": "ids = tokenizer(text)",
        "template": "text = template(messages)",
        "embedding": f"x = E[id]{scale}",
        "positions": "x = x + P[p]" if learned else "R(p): pair i of each head turns by p · θᵢ",
        "attention_norm": norm,
        "qkv": f"q = W_q x̂{added},  k = W_k x̂{added},  v = W_v x̂{added}",
        "rope": turned,
        "scores": f"s[i, j] = q[i] · k[j] · {config.attention_scale:.6g}",
        "mask": f"s[i, j] = −∞ for j > i{behind}",
        "softmax": "a[i, j] = exp(s[i, j]) / Σⱼ exp(s[i, j])",
        "weighted_sum": "h[i] = Σⱼ a[i, j] · v[j]",
        "output_projection": f"o = W_o h{bias('o_bias')}",
        "attention_residual": f"x = x + {first}",
        "mlp_norm": norm,
        "gate_up": ("g = W_gate x̂, " if config.gated_mlp else "") + f"u = W_up x̂{bias('up_bias')}",
        "activation": f"m = {act}(g) · u" if config.gated_mlp else f"m = {act}(u)",
        "down": f"d = W_down m{bias('down_bias')}",
        "mlp_residual": f"x = x + {last}",
        "final_norm": norm,
        "head": "logits = E x̂" if config.tie_word_embeddings else "logits = W_head x̂",
        "penalties": "l = l + bias;  l / r or l · r if seen;  l − count · frequency − presence if said",
        "temperature": "l = l / T",
        "filters": "keep the k largest; the fewest that reach p together; those of at least min_p · max",
        "draw": "the first token at which Σ p exceeds u = philox(seed, position)",
    }
