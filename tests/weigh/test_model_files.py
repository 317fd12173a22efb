"""Models as files: folders, GGUF and safetensors, of which only headers are read."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

from boli.errors import CorruptFile, UsageError
from boli.weigh.model import find_model
from tiny_models import TINY, Zoo, save_safetensors
from weigh.small_config import LLAMA, written


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("name", ["llama", "llama-mha-tied", "qwen2", "qwen3", "gemma3", "gpt2", "mistral"])
def test_a_folder_and_a_gguf_file_of_what_runs(name: str, zoo: Zoo) -> None:
    folder = zoo.folder(TINY[name])
    model = find_model(folder)
    assert (model.source, model.not_runnable) == ("folder", "")
    held = safetensors.numpy.load_file(folder / "model.safetensors")
    assert model.blueprint.parameters == sum(each.size for each in held.values())
    assert set(model.stored.values()) == {"F32"}
    assert set(model.stored) == {each.name for each in model.blueprint if not each.tied_to}
    assert model.file_bytes == (folder / "model.safetensors").stat().st_size
    assert not [note for note in model.notes if "not counted" in note or "not in the files" in note]
    if TINY[name].gguf_architecture is None:
        return
    path = zoo.gguf(TINY[name], "Q8_0")
    packed = find_model(path)
    assert (packed.source, packed.name, packed.not_runnable) == ("gguf", path.stem, "")
    assert packed.blueprint.parameters == model.blueprint.parameters
    assert packed.file_bytes == path.stat().st_size
    assert set(packed.stored) == {each.name for each in packed.blueprint if not each.tied_to}
    assert "Q8_0" in packed.stored.values()


def test_shards_and_a_configuration_that_belongs_to_other_files(tmp_path: Path) -> None:
    folder = save_safetensors(TINY["llama"], tmp_path / "model", shard_bytes=200_000)
    model = find_model(folder)
    assert model.file_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert len(model.stored) == len([each for each in model.blueprint if not each.tied_to])
    config = json.loads((folder / "config.json").read_text())
    written(folder, config | {"intermediate_size": 170})
    with pytest.raises(CorruptFile, match=r"has shape \[172, 96\]"):
        find_model(folder)
    written(folder, config | {"num_hidden_layers": 3})
    assert "9 weights of the configuration are not in the files" in " ".join(find_model(folder).notes)
    written(folder, config | {"num_hidden_layers": 1})
    assert "the files hold 9 more tensors" in " ".join(find_model(folder).notes)


def test_a_folder_with_a_configuration_alone(tmp_path: Path) -> None:
    written(tmp_path, LLAMA)
    model = find_model(tmp_path)
    assert (model.source, model.stored, model.file_bytes) == ("folder", {}, None)
    with pytest.raises(UsageError, match="cannot be changed"):
        find_model(__file__.replace(".py", ".safetensors"), hidden_size=64)


def test_experts_of_a_folder_are_matched_one_by_one(tmp_path: Path) -> None:
    config = {
        **LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 3,
        "num_experts_per_tok": 2, "sliding_window": None, "num_hidden_layers": 1,
    }  # fmt: skip
    written(tmp_path, config)
    wanted = find_model(tmp_path)
    tensors = {}
    for weight in wanted.blueprint:
        if weight.role.startswith("expert_"):
            for i in range(3):
                name = weight.name.replace("experts.", f"experts.{i}.")
                tensors[name] = np.zeros(weight.shape[1:], np.float16)
        else:
            tensors[weight.name] = np.zeros(weight.shape, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    model = find_model(tmp_path)
    assert model.notes == ()
    kinds = {weight.role: model.stored[weight.name] for weight in model.blueprint}
    assert kinds["expert_down"] == "F16"
    assert kinds["router"] == "F32"
    del tensors["model.layers.0.block_sparse_moe.experts.1.w2.weight"]
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    assert "1 weights of the configuration are not in the files" in " ".join(find_model(tmp_path).notes)


def test_a_safetensors_file_alone(tmp_path: Path, zoo: Zoo) -> None:
    folder = zoo.folder(TINY["llama"])
    for path in (folder / "model.safetensors", tmp_path):
        if path == tmp_path:  # the same, as a folder without config.json
            (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        model = find_model(path)
        assert model.facts is None
        assert model.blueprint.parameters == find_model(folder).blueprint.parameters
        roles = {each.name: each.role for each in find_model(folder).blueprint}
        assert {each.name: each.role for each in model.blueprint} == roles
        assert "no config.json" in model.notes[0]


def metadata_of(writer: gguf.GGUFWriter, **more: int) -> None:
    writer.add_block_count(more.pop("layers", 2))
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(more.pop("kv_heads", 2))
    writer.add_layer_norm_rms_eps(1e-6)
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)


def tensors_of(writer: gguf.GGUFWriter, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


MIXTURE = {
    "token_embd": (100, 64), "output_norm": (64,), "output": (100, 64), "blk.0.attn_norm": (64,),
    "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64), "blk.0.attn_v": (32, 64),
    "blk.0.attn_output": (64, 64), "blk.0.ffn_norm": (64,), "blk.0.ffn_gate_inp": (4, 64),
    "blk.0.ffn_gate_exps": (4, 96, 64), "blk.0.ffn_up_exps": (4, 96, 64), "blk.0.ffn_down_exps": (4, 64, 96),
}  # fmt: skip


def test_a_gguf_file_of_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "mixture.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    metadata_of(writer, layers=1, expert_count=4, expert_used_count=2)
    tensors_of(writer, MIXTURE)
    model = find_model(path)
    assert "expert_count" in model.not_runnable
    assert model.blueprint.parameters == sum(int(np.prod(shape)) for shape in MIXTURE.values())
    assert model.facts is not None
    assert model.facts.experts is not None
    assert (model.facts.experts.num_experts, model.facts.experts.num_experts_per_tok) == (4, 2)
    assert model.facts.layers[0].experts
    assert {each.role for each in model.blueprint} == {
        "embedding", "final_norm", "head", "attention_norm", "q", "k", "v", "o", "mlp_norm", "router",
        "expert_gate", "expert_up", "expert_down",
    }  # fmt: skip


def test_a_gguf_file_with_latent_attention_and_one_with_windows(tmp_path: Path) -> None:
    latent = tmp_path / "latent.gguf"
    writer = gguf.GGUFWriter(latent, "deepseek2")
    metadata_of(writer, kv_heads=1, key_length=48, value_length=32, kv_lora_rank=32, rope_dimension_count=16,
                key_length_mla=40, value_length_mla=24)  # fmt: skip
    tensors_of(writer, {"token_embd": (100, 64), "blk.0.attn_kv_a_mqa": (48, 64), "blk.1.attn_kv_b": (9, 32)})
    facts = find_model(latent).facts
    assert facts is not None
    assert facts.mla is not None
    assert (facts.mla.kv_lora_rank, facts.mla.qk_nope_head_dim, facts.mla.v_head_dim) == (32, 24, 24)
    assert facts.layers[1].attention == "mla"
    assert facts.tie_word_embeddings
    for architecture, kinds, said in (
        ("gemma2", ("sliding", "full"), False),
        ("novel", ("full", "full"), True),
    ):
        path = tmp_path / f"{architecture}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        metadata_of(writer, sliding_window=16)
        tensors_of(writer, {"token_embd": (100, 64)})
        model = find_model(path)
        assert model.facts is not None
        assert tuple(each.attention for each in model.facts.layers) == kinds
        assert any("window of 16" in note for note in model.notes) == said


def test_a_gguf_file_of_an_encoder_and_one_of_two_stacks(tmp_path: Path) -> None:
    for architecture in ("bert", "t5"):
        path = tmp_path / f"{architecture}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        metadata_of(writer)
        writer.add_causal_attention(False)
        tensors_of(writer, {"token_embd": (100, 64)})
    encoder = find_model(tmp_path / "bert.gguf").facts
    assert encoder is not None
    assert (encoder.layout, encoder.layers[1].attention) == ("encoder", "bidirectional")
    two = find_model(tmp_path / "t5.gguf")
    assert two.facts is None
    assert two.blueprint.parameters == 6400
    assert "an encoder and a decoder" in str(two.notes) or "t5.block_count" in two.notes[0]


def test_damaged_files(tmp_path: Path, zoo: Zoo) -> None:
    whole = zoo.gguf(TINY["llama"]).read_bytes()
    for length in (0, 3, 30, 1000, len(whole) - 1):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile):
            find_model(path)
    whole = (zoo.folder(TINY["llama"]) / "model.safetensors").read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile):
            find_model(path)
