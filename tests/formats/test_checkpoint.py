"""Opening a model's files: every weight is there, right, and nothing else happens."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from boli.blueprint import Weight
from boli.errors import (
    BoliError,
    CorruptFile,
    FormatError,
    ModelNotFound,
    NumericError,
    UnsafeFile,
    UnsupportedModel,
)
from boli.formats.checkpoint import Checkpoint, open_checkpoint
from boli.formats.finite import is_finite
from boli.formats.numbers import dequantize
from boli.formats.table import FORMATS
from tiny_models import TINY, Tiny, Zoo, make, read_config, save_gguf, save_safetensors, wide

QUANTIZED = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
Tensors = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def llama(zoo: Zoo, tmp_path: Path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(zoo.folder(TINY["llama"]), tmp_path / "llama"))


def state(tiny: Tiny) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.numpy() for name, tensor in make(tiny).state_dict().items()}


def need(checkpoint: Checkpoint, role: Any, layer: int | None = None) -> Weight:
    weight = checkpoint.blueprint.find(role, layer)
    assert weight is not None
    return weight


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def edit(folder: Path, change: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


@pytest.mark.parametrize("tiny", TINY.values(), ids=str)
def test_every_weight_has_the_numbers_that_transformers_has(tiny: Tiny, zoo: Zoo) -> None:
    expected = state(tiny)
    paths = [zoo.folder(tiny)] + ([zoo.gguf(tiny)] if tiny.gguf_architecture else [])
    for path in paths:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.unused == []
            for weight in checkpoint.blueprint:
                values = expected[weight.name]
                if weight.safetensors.transform == "transpose":
                    values = values.T
                if weight.safetensors.transform == "plus_one" or (
                    tiny.kind == "Gemma3" and "norm" in weight.name
                ):
                    values = values + 1
                np.testing.assert_array_equal(checkpoint.float32(weight), values)


@pytest.mark.parametrize("quantization", QUANTIZED)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_quantized_weights_equal_what_the_gguf_package_reads(name: str, quantization: str, zoo: Zoo) -> None:
    path = zoo.gguf(wide(name), quantization)
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    head_dim = 32
    with open_checkpoint(path) as checkpoint:
        for weight in checkpoint.blueprint:
            stored = reader[weight.gguf.names[0]]
            values = gguf.dequantize(stored.data, stored.tensor_type)
            if weight.role in ("q", "k"):  # each head: even rows first, then odd ones
                heads = values.reshape(-1, head_dim, values.shape[1])
                values = np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(values.shape)
            np.testing.assert_array_equal(checkpoint.float32(weight), values)
        assert checkpoint.matrix(need(checkpoint, "down", 0)).format.name == quantization


def test_a_matrix_is_a_view_of_the_file_and_says_how_its_rows_are_ordered(zoo: Zoo) -> None:
    with open_checkpoint(zoo.gguf(wide("llama"), "Q4_1")) as checkpoint:
        matrix = checkpoint.matrix(need(checkpoint, "q", 1))
        assert not matrix.data.flags.owndata
        assert not matrix.data.flags.writeable
        assert matrix.data.shape == (256, matrix.format.nbytes(256))
        assert matrix.row_order is not None
        assert matrix.row_order.dtype == np.int32
        assert list(matrix.row_order[:3]) == [0, 2, 4]
        assert list(matrix.row_order[16:19]) == [1, 3, 5]
        assert sorted(matrix.row_order) == list(range(256))
        assert checkpoint.matrix(need(checkpoint, "v", 1)).row_order is None
        del matrix


def test_a_transposed_matrix_has_the_bytes_in_order_in_every_float_type(tmp_path: Path) -> None:
    import torch

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = make(TINY["gpt2"]).to(dtype)
        model.save_pretrained(tmp_path)
        expected = model.transformer.h[1].attn.c_attn.weight.T.float().detach().numpy()
        with open_checkpoint(tmp_path) as checkpoint:
            matrix = checkpoint.matrix(need(checkpoint, "qkv", 1))
            assert (matrix.rows, matrix.columns) == expected.shape
            np.testing.assert_array_equal(dequantize(matrix.data, matrix.format, matrix.columns), expected)


def test_a_tied_head_is_the_embedding(zoo: Zoo) -> None:
    for path in (zoo.folder(TINY["qwen2"]), zoo.gguf(TINY["qwen2"])):
        with open_checkpoint(path) as checkpoint:
            head = checkpoint.matrix(need(checkpoint, "head"))
            embedding = checkpoint.matrix(need(checkpoint, "embedding"))
            assert head.data.ctypes.data == embedding.data.ctypes.data
            del head, embedding


def test_shards_are_read_like_one_file(tmp_path: Path, zoo: Zoo) -> None:
    folder = save_safetensors(TINY["llama"], tmp_path, shard_bytes=200_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    with open_checkpoint(folder) as sharded, open_checkpoint(zoo.folder(TINY["llama"])) as single:
        assert len(sharded.tensors) == len(single.tensors)
        for weight in single.blueprint:
            np.testing.assert_array_equal(sharded.float32(weight), single.float32(weight))


def test_what_was_opened_is_told(zoo: Zoo) -> None:
    folder, file = zoo.folder(TINY["llama"]), zoo.gguf(TINY["llama"])
    with open_checkpoint(folder) as checkpoint:
        assert (checkpoint.format, checkpoint.path, checkpoint.folder) == ("safetensors", folder, folder)
        assert checkpoint.gguf is None
        assert {info.format.name for info in checkpoint.tensors} == {"F32"}
    with open_checkpoint(file) as checkpoint:
        assert (checkpoint.format, checkpoint.path, checkpoint.folder) == ("gguf", file, None)
        assert checkpoint.gguf is not None
        assert len(checkpoint.tensors) == 21
    checkpoint.close()  # a second time


def test_a_folder_with_one_gguf_file_is_that_file(zoo: Zoo, tmp_path: Path) -> None:
    shutil.copy(zoo.gguf(TINY["llama"]), tmp_path / "model.gguf")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / "model.gguf"
    shutil.copy(zoo.gguf(TINY["llama"]), tmp_path / "other.gguf")
    with pytest.raises(ModelNotFound, match="2 GGUF files"):
        open_checkpoint(tmp_path)


def test_a_padded_embedding_says_how_large_the_vocabulary_is(tmp_path: Path) -> None:
    path = save_gguf(TINY["qwen2"], tmp_path / "padded.gguf", pad_vocab=20)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.blueprint.config.vocab_size == 320
        assert checkpoint.float32(need(checkpoint, "head"))[300:].max() == 0


def test_tensors_that_no_weight_needs_are_listed(llama: Path) -> None:
    extra = np.zeros(3, np.float32)
    names = ("model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.layers.0.weight", "score.weight")
    edit(llama, lambda tensors: tensors.update(dict.fromkeys(names, extra)))
    with open_checkpoint(llama) as checkpoint:
        assert sorted(checkpoint.unused) == sorted(names[1:])
        assert len(checkpoint.tensors) == 24


def test_a_tied_model_may_hold_its_head_twice(zoo: Zoo, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(zoo.folder(TINY["qwen2"]), tmp_path / "qwen2"))

    def double(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2

    edit(folder, double)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.unused == ["lm_head.weight"]
        head, embedding = need(checkpoint, "head"), need(checkpoint, "embedding")
        np.testing.assert_array_equal(checkpoint.float32(head), checkpoint.float32(embedding))


def test_a_tensor_inside_a_layer_that_no_weight_needs_is_refused(llama: Path) -> None:
    """A norm on q or a bias that the configuration does not tell of would be left out of the arithmetic."""
    name = "model.layers.1.self_attn.q_norm.weight"
    edit(llama, lambda tensors: tensors.update({name: np.ones(16, np.float32)}))
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\.self_attn\.q_norm\.weight"):
        open_checkpoint(llama)


def test_a_missing_weight_is_named(llama: Path) -> None:
    def remove(tensors: Tensors) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]

    edit(llama, remove)
    with pytest.raises(CorruptFile, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        open_checkpoint(llama)


def test_a_wrong_shape_is_named_with_what_was_expected(llama: Path) -> None:
    def cut(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.k_proj.weight"] = np.zeros((32, 95), np.float32)

    edit(llama, cut)
    with pytest.raises(CorruptFile) as error:
        open_checkpoint(llama)
    assert "model.layers.0.self_attn.k_proj.weight has shape [32, 95]" in error.value.message
    assert "[32, 96]" in error.value.cause


def test_a_number_format_that_does_not_run_is_named(llama: Path, tmp_path: Path) -> None:
    def widen(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.float64)

    edit(llama, widen)
    with pytest.raises(UnsupportedModel, match=r"F64.*lm_head\.weight"):
        open_checkpoint(llama)


def test_a_gguf_number_format_that_does_not_run_is_named(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "ternary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, tensor in {t.name: t for t in gguf.GGUFReader(zoo.gguf(wide("llama"))).tensors}.items():
        if name == "blk.0.ffn_down.weight":
            kind = gguf.GGMLQuantizationType.TQ2_0
            writer.add_tensor(name, gguf.quantize(tensor.data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.data)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    write(writer)
    with pytest.raises(UnsupportedModel, match=r"TQ2_0.*blk\.0\.ffn_down\.weight"):
        open_checkpoint(path)


def test_a_configuration_of_another_model_is_refused(llama: Path) -> None:
    config = read_config(llama)
    for changes, named in (
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1"),
        ({"vocab_size": 301}, r"model\.embed_tokens\.weight"),
        ({"attention_bias": True}, r"q_proj\.bias"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": 2**17, "head_dim": 16}, r"model\.embed_tokens\.weight"),
    ):
        (llama / "config.json").write_text(json.dumps({**config, **changes}))
        begin = time.perf_counter()
        with pytest.raises((CorruptFile, UnsupportedModel), match=named):
            open_checkpoint(llama)
        assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"vocab_size": 1' + "0" * 9999 + "}",
        "\xff",
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_a_config_that_is_no_json_object_is_refused(text: str, llama: Path) -> None:
    (llama / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFile, match=r"config\.json"):
        open_checkpoint(llama)


def test_a_config_out_of_proportion_is_not_read(llama: Path) -> None:
    with (llama / "config.json").open("wb") as file:
        file.truncate(10**10)  # a hole: it takes no room on the disk
    with pytest.raises(CorruptFile, match="larger than"):
        open_checkpoint(llama)


def test_nothing_there_is_said_in_each_way(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(ModelNotFound):
        open_checkpoint(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelNotFound, match=r"neither config\.json nor a GGUF file"):
        open_checkpoint(empty)
    (empty / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="adapter"):
        open_checkpoint(empty)
    with pytest.raises(ModelNotFound, match="part of a model") as error:
        open_checkpoint(llama / "model.safetensors")
    assert str(llama) in error.value.remedy
    with pytest.raises(BoliError):
        open_checkpoint(Path("nul\0byte"))


def test_pickles_are_refused_even_with_a_good_config(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(UnsafeFile):
        open_checkpoint(llama)
    with pytest.raises(FormatError):
        open_checkpoint(llama / "pytorch_model.bin")


def test_a_vocabulary_or_an_adapter_in_gguf_is_no_model(tmp_path: Path) -> None:
    for kind in ("model", "adapter"):
        path = tmp_path / f"{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type(kind)
        if kind == "adapter":
            writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 4), np.float32))
        for write in (
            writer.write_header_to_file,
            writer.write_kv_data_to_file,
            writer.write_tensors_to_file,
        ):
            write()
        writer.close()
        with pytest.raises(UnsupportedModel, match="is not a model"):
            open_checkpoint(path)


def test_rope_freqs_of_another_type_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    reader = gguf.GGUFReader(zoo.gguf(TINY["llama31"]))
    info = next(tensor for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    raw = bytearray(zoo.gguf(TINY["llama31"]).read_bytes())
    raw[info.data_offset : info.data_offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(CorruptFile, match=r"rope_freqs\.weight"):
        open_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_nan_and_infinity_are_found_and_the_tensor_named(name: str, value: float, llama: Path) -> None:
    def break_one(tensors: Tensors) -> None:
        tensors[name].reshape(-1)[-1] = value

    edit(llama, break_one)
    with open_checkpoint(llama) as checkpoint:
        broken = [weight for weight in checkpoint.blueprint if not _passes(checkpoint, weight)]
        assert [weight.name for weight in broken] == [name]
        if len(broken[0].shape) == 1:
            with pytest.raises(NumericError, match=name):
                checkpoint.vector(broken[0])


def _passes(checkpoint: Checkpoint, weight: Weight) -> bool:
    try:
        checkpoint.check_finite(weight)
    except NumericError as error:
        assert weight.name in error.message
        return False
    return True


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.runnable])
def test_a_look_at_the_scales_finds_what_decoding_finds(name: str) -> None:
    """On random bytes, blocks with an infinite scale are common; each block is judged alone."""
    fmt = FORMATS[name]
    random = np.random.default_rng(5)
    blocks = random.integers(0, 256, (4000, fmt.block_bytes)).astype(np.uint8)
    with np.errstate(all="ignore"):
        expected = np.asarray(np.isfinite(dequantize(blocks, fmt, fmt.block_size)).all(axis=1))
    found = np.array([is_finite(block, fmt) for block in blocks])
    if name == "MXFP4":  # the largest scales overflow only with the largest quants
        assert not (found & ~expected).any()
        assert (found != expected).mean() < 0.02
    else:
        np.testing.assert_array_equal(found, expected)
    assert 0 < (~expected).sum() < len(expected) / 2
    assert is_finite(blocks[expected & found], fmt)
    assert not is_finite(np.concatenate([blocks[expected], blocks[~expected][:1]]), fmt)


def test_files_are_closed_when_opening_fails(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from boli.formats.safetensors import SafetensorsFile

    closed: list[Path] = []
    close = SafetensorsFile.close

    def watched(file: SafetensorsFile) -> None:
        closed.append(file.path)
        close(file)

    monkeypatch.setattr(SafetensorsFile, "close", watched)
    (llama / "config.json").write_text("{}")
    with pytest.raises(CorruptFile):
        open_checkpoint(llama)
    assert closed == [llama / "model.safetensors"]
