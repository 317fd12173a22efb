"""The account of training against real steps of Adam in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from boli.weigh.training import Training, training
from boli.weigh.weights import weigh_weights
from weigh.live_tensors import LiveTensors, kept_for_backward
from weigh.made_models import gpt, made

BATCH, LENGTH = 2, 96
SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZES, **IDS, tie_word_embeddings=False),
    "llama tied": transformers.LlamaConfig(**SIZES, **IDS, tie_word_embeddings=True),
    "qwen2": transformers.Qwen2Config(**SIZES, **IDS),
    "qwen3": transformers.Qwen3Config(**SIZES, **IDS),
    "gemma3": transformers.Gemma3TextConfig(**SIZES, **IDS),
    "mixtral": transformers.MixtralConfig(**SIZES, **IDS, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **SIZES, **IDS, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are too small for more, and the threads of others may be busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def predicted(config: Any, **options: Any) -> Training:
    model = made({**config.to_dict(), "architectures": [architecture(config)]})
    return training(
        model, weigh_weights(model), sequence_length=LENGTH, micro_batch=BATCH, norms="eager", **options
    )  # fmt: skip


def architecture(config: Any) -> str:
    return str(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__)


def built(config: Any, dtype: torch.dtype, attention: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype)
    return model.train()


def tokens() -> torch.Tensor:
    return torch.randint(3, SIZES["vocab_size"], (BATCH, LENGTH))


def kept(model: Any) -> int:
    """Bytes kept for the backward pass, without the loss."""
    with kept_for_backward(model.parameters()) as sizes:
        model(input_ids=tokens(), use_cache=False)
    return sum(sizes.values())


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_activations_of_families(family: str, recipe: str, attention: str) -> None:
    config = CONFIGS[family]
    dtype = torch.float32 if recipe == "fp32" else torch.bfloat16
    measured = kept(built(config, dtype, "sdpa" if attention == "flash" else "eager"))
    account = predicted(config, recipe=recipe, attention=attention)
    assert account.activations is not None
    assert account.activations.bytes.value == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_activations_of_latent_attention(recipe: str) -> None:
    # Keys are wider than values, for which PyTorch has no flash attention on a CPU.
    config = transformers.DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4, "head_dim": 4}, **IDS, q_lora_rank=24, kv_lora_rank=16,
        qk_nope_head_dim=16, qk_rope_head_dim=4, v_head_dim=16, n_routed_experts=8, n_shared_experts=1,
        num_experts_per_tok=2, moe_intermediate_size=48, n_group=1, topk_group=1, first_k_dense_replace=1,
    )  # fmt: skip
    measured = kept(built(config, torch.float32 if recipe == "fp32" else torch.bfloat16, "eager"))
    account = predicted(config, recipe=recipe, attention="eager")
    assert account.activations is not None
    assert [len(group.layers) for group in account.activations.groups] == [1, 1]
    assert account.activations.bytes.value == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("family", "recipe"),
    [("llama", "fp32"), ("llama tied", "bf16"), ("llama tied", "fp32"), ("gemma3", "fp32")],
)
def test_a_step_of_adam(family: str, recipe: str) -> None:
    config = CONFIGS[family]
    model = built(config, torch.float32 if recipe == "fp32" else torch.bfloat16, "sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = tokens()
    with LiveTensors(model.parameters()) as live:
        peaks = []
        for keep in (False, True, True):  # the first makes the moments, the third finds gradients there
            live.peak = 0
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            del loss
            states = live.now
            optimizer.step()
            optimizer.zero_grad(set_to_none=not keep)
            peaks.append(live.peak)
    account = predicted(config, recipe=recipe)
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert account.states.moments.value == sum(moment.nbytes for moment in moments)
    assert account.states.bytes.value == pytest.approx(states, rel=0.02)
    assert account.total.value == pytest.approx(peaks[2], rel=0.1)
    assert account.peak is not None
    assert account.peak.value == pytest.approx(peaks[1], rel=0.1)


def test_small_batches_are_fullest_when_the_gradients_are_there() -> None:
    config = CONFIGS["llama tied"]
    model = built(config, torch.float32, "sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = tokens()[:1, :4]
    with LiveTensors(model.parameters()) as live:
        for _ in range(2):
            live.peak = 0
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            backward = live.peak
            optimizer.step()
            optimizer.zero_grad()
    described = made({**config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    account = training(described, weigh_weights(described), sequence_length=4, recipe="fp32", norms="eager")
    assert account.peak is not None
    assert account.peak.value == pytest.approx(backward, rel=0.1)


def dropped(x: torch.Tensor) -> torch.Tensor:
    """Dropout with a mask of bytes, as on a GPU; on a CPU PyTorch would keep it as floats."""
    return torch.native_dropout(x, 0.1, True)[0]


class Block(nn.Module):  # type: ignore[misc]
    """GPT's block as its paper draws it, in PyTorch's own modules."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT * (width // self.heads) ** -0.5).softmax(-1)
        mixed = (dropped(scores) @ v).transpose(1, 2).reshape(rows, length, width)
        x = x + dropped(self.out(mixed))
        inner = functional.gelu(self.up(self.norm_2(x)))
        return x + dropped(self.down(inner))


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_activations_of_gpts_block(recompute: Any) -> None:
    width, heads, layers = 64, 4, 2
    blocks = nn.ModuleList(Block(width, heads) for _ in range(layers)).train()
    x = torch.randn(BATCH, LENGTH, width, requires_grad=True)
    with kept_for_backward(blocks.parameters()) as sizes:
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute == "full" else block(x)
    model = gpt(width, layers, heads)
    account = training(
        model, weigh_weights(model), sequence_length=LENGTH, micro_batch=BATCH,
        recipe="fp32", attention="eager", recompute=recompute,
    )  # fmt: skip
    assert account.run is not None
    assert account.run.dropout
    assert account.activations is not None
    assert account.activations.layers.value == pytest.approx(sum(sizes.values()), rel=0.05)


class LowRank(nn.Module):  # type: ignore[misc]
    """What LoRA adds to the output of a frozen matrix."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(x) + self.up(self.down(x))


@pytest.mark.parametrize("targets", ["q,v", "all-linear"])
def test_activations_and_parameters_of_lora(targets: str) -> None:
    config, rank = CONFIGS["llama"], 4
    model = built(config, torch.float32, "sdpa").requires_grad_(False)
    model.enable_input_require_grads()
    account = predicted(config, recipe="fp32", rank=rank, targets=targets)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, matrix in list(part.named_children()):
                if isinstance(matrix, nn.Linear) and name.split("_")[0] in account.adapters.roles:
                    setattr(part, name, LowRank(matrix, rank))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == account.adapters.parameters.value
    measured = kept(model)
    assert account.lora_activations is not None
    assert account.lora_activations.bytes.value == pytest.approx(measured, rel=0.1)
