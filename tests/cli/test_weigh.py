"""`boli weigh`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cli.shell import Here, Terminal, boli, environment, lines_wider_than

ORDER = ["Model", "Weights", "Bytes by number format", "KV cache", "Run", "What fits", "Speed", "Training"]
CARD = "RTX 3060 12GB"


def headings(text: str) -> list[str]:
    lines = text.splitlines()
    known = [*ORDER, "Not modelled"]
    return [line for line in lines if line in known or line.startswith(("What if ", "Every tensor"))]


def test_everything_comes_in_order(here: Here) -> None:
    ended = here("weigh", "llama-3.1-8b", "--device", CARD)
    assert (ended.code, ended.err) == (0, "")
    assert headings(ended.out) == [*ORDER, "Not modelled"]
    assert "= 8,030,261,248 (8.03 billion)" in ended.out
    assert re.search(r"^head +128256 × 4096 +- +525,336,576 +BF16 ", ended.out, re.MULTILINE)
    assert re.search(
        r"^q +4096 × 4096 +32 +16,777,216 .* 0–31 +model\.layers\.#\.self_attn\.q_proj", ended.out, re.M
    )
    assert "= 14.96 GiB (16.06 GB)" in ended.out
    assert ended.out.rstrip().endswith("Marks: = exact   ! measured   ≈ calibrated   ~ assumed")


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-8b", "smollm2", "gemma-3-270m", "deepseek-v3", "qwen3-30b-a3b", "t5-small", "bert-base"],
)
@pytest.mark.parametrize("more", [[], ["--explain", "--training", "--formats"], ["--what-if", "context=512"]])
def test_it_fits_into_80_columns(here: Here, name: str, more: list[str]) -> None:
    ended = here("weigh", name, "--device", CARD, *more, COLUMNS="80")
    assert ended.code == 0, ended.err
    assert not lines_wider_than(ended.out, 80)
    assert "\x1b" not in ended.out


def test_a_narrow_terminal_and_a_wide_one(here: Here) -> None:
    assert not lines_wider_than(here("weigh", "gpt2", COLUMNS="60").out, 60)
    assert "transformer.h.#.attn.c_attn.weight" in here("weigh", "gpt2", COLUMNS="160").out
    assert "transformer.h.#.attn.c_attn.weight" not in here("weigh", "gpt2", COLUMNS="80").out


def test_a_terminal_has_colours_and_a_pipe_has_none() -> None:
    with Terminal("weigh", "gpt2") as terminal:
        assert terminal.end() == 0
    assert "\x1b[36mWeights" in terminal.raw
    assert not lines_wider_than(terminal.text, 80)
    assert "\x1b" not in boli("weigh", "gpt2").out


def test_every_number_has_its_formula(here: Here) -> None:
    out = here("weigh", "llama-3.1-8b", "--engine", "model", "--explain").out
    assert (
        "32 full layers: a position: num_key_value_heads · (key_head_dim + value_head_dim) · bytes\n" in out
    )
    assert "= 8 · (128 + 128) · 2 = 4,096 (exact)" in out
    assert "model.layers.#.self_attn.k_proj.weight: layers · rows · columns · bytes\n" in out
    assert "= 32 · 1,024 · 4,096 · 2 = 268,435,456 (exact)" in out
    shown = set(re.findall(r"\((exact|calibrated|measured|assumed)\)", out))
    assert shown >= {"exact", "measured", "assumed"}
    assert "(exact)" not in here("weigh", "llama-3.1-8b").out


def test_the_document(here: Here) -> None:
    document = here("weigh", "gemma-3-270m", "--json").document
    assert document["parameters"] == 268_098_176
    assert document["formats"]["Q4_K_M"] == 246_587_904
    assert document["formats"]["Q8_0"] == 285_018_624
    assert document["fits"] is True
    (change,) = here("weigh", "gemma-3-270m", "--json", "--what-if", "requests=2").document["what_if"]
    assert change["change"] == "What if requests=2"
    assert change["kv_cache"]["requests"] == 2
    both = here("weigh", "gpt2", "gpt2-medium", "--json").document["models"]
    assert [each["model"] for each in both] == ["gpt2", "gpt2-medium"]


def test_shapes_alone(here: Here) -> None:
    shapes = ["--hidden-size", "4096", "--layers", "32", "--heads", "32", "--intermediate-size", "11008"]
    ended = here("weigh", *shapes, "--vocab-size", "32000", "--json")
    assert ended.document["parameters"] == 6_738_415_616
    ended = here("weigh", *shapes, "--kv-heads", "8", "--shape", "tie_word_embeddings=true", "--json")
    assert ended.document["weights"][-1]["tied_to"]
    assert ended.document["kv_cache"]["bytes_per_token"] == 2 * 32 * 8 * 128 * 2


def test_a_configuration_of_ones_own(here: Here, tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
        "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 512,
    }  # fmt: skip
    folder = tmp_path / "我的模型"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    ended = here("weigh", str(folder / "config.json"), COLUMNS="80")
    assert ended.code == 0, ended.err
    assert "我的模型" in ended.out
    assert not lines_wider_than(ended.out, 80)


def test_two_models_are_compared(here: Here) -> None:
    ended = here("weigh", "llama-3.1-8b", "qwen2.5-7b", COLUMNS="80")
    assert ended.code == 0
    assert ended.out.splitlines()[0] == "llama-3.1-8b and qwen2.5-7b"
    assert not lines_wider_than(ended.out, 80)


def test_what_if(here: Here) -> None:
    ended = here("weigh", "smollm2", "--what-if", "context=512", "--what-if", "requests=4")
    assert headings(ended.out) == [
        "What if context=512",
        "What if requests=4",
        "What if context=512, requests=4",
    ]


def test_all_of_training(here: Here) -> None:
    options = [
        "--zero",
        "3",
        "--devices",
        "8",
        "--batch",
        "4",
        "--recompute",
        "full",
        "--rank",
        "8",
        "--lora",
        "q,v",
    ]
    out = here("weigh", "gpt2-xl", "--training", *options).out
    assert "ZeRO stage 3 over 8 devices" in out
    assert "4 × 1,024 tokens, flash attention, dropout, recomputed: full" in out
    assert "2 + 2 + 12 bytes a parameter" in out
    assert "LoRA, rank 8" in out
    training = here("weigh", "gpt2-xl", "--json", *options).document["training"]
    assert training["states_zero_0"] == 16 * 1_557_611_200
    assert training["states"] == training["states_zero_3"]


def test_every_format_and_every_tensor(here: Here) -> None:
    out = here("weigh", "smollm2", "--formats", "--tensors", "--weights", "Q4_K_M").out
    assert "IQ2_XXS" in out
    assert re.search(r"^token_embd\.weight +49152 × 576 +Q8_0 +8\.5000 +30,081,024$", out, re.MULTILINE)
    assert "▸ Q4_K_M" in out
    assert "IQ2_XXS" not in here("weigh", "smollm2").out


def test_scripts_can_ask_whether_it_fits(here: Here) -> None:
    model = ["weigh", "llama-2-13b", "--device", CARD, "--context", "2048", "--fits"]
    ended = here(*model, "--weights", "FP16")
    assert ended.code == 1
    assert "does not fit into GeForce RTX 3060 12GB" in ended.err
    assert "Traceback" not in ended.err
    assert here(*model, "--weights", "INT4").code == 0
    assert here(*model, "--weights", "FP16", "--json").document["fits"] is False
    assert here(*model[:-1], "--weights", "FP16").code == 0


def test_pictures_and_a_page(here: Here, tmp_path: Path) -> None:
    svg, html = tmp_path / "picture.svg", tmp_path / "page.html"
    ended = here("weigh", "gemma-3-270m", "--weights", "Q4_K_M", "--svg", str(svg), "--html", str(html))
    assert ended.code == 0
    assert ended.err.splitlines() == [f"written: {svg}", f"written: {html}"]
    assert ElementTree.fromstring(svg.read_text()).tag.endswith("svg")
    page = html.read_text()
    for heading in ORDER[:6]:
        assert f">{heading}</h2>" in page
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)  # nothing is loaded from elsewhere
    assert "167,772,160" in page
    assert page.count("<details>") >= 5


def test_a_page_is_safe_with_any_name(here: Here, tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)<" / "config.json"
    evil.parent.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 100,
    }
    evil.write_text(json.dumps({**config, "num_attention_heads": 4, "intermediate_size": 128}))
    ended = here("weigh", str(evil), "--html", str(tmp_path / "page.html"))
    assert ended.code == 0, ended.err
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102  # the name is bytes
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 100,
    }
    with open(folder + b"/config.json", "w") as file:  # noqa: PTH123
        json.dump({**config, "num_attention_heads": 4, "intermediate_size": 128}, file)
    page = tmp_path / "page.html"
    ended = boli("weigh", folder + b"/config.json", "--html", str(page))
    assert ended.code == 0, ended.err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


WRONG: list[tuple[list[str], int, str, str]] = [
    (["weigh", "llama-3.1-8c"], 1, "no model", "llama-3.1-8b"),
    (["weigh", "gpt2", "--device", "RTX 9999"], 2, "no device", "'this'"),
    (["weigh", "gpt2", "--weights", "Q9_K"], 2, "no number format", "Q4_K_M"),
    (["weigh", "gpt2", "--kv", "int7"], 2, "int7", "BF16"),
    (["weigh", "gpt2", "--engine", "tgi"], 2, "no engine 'tgi'", "vllm"),
    (["weigh", "gpt2", "--what-if", "contxt=5"], 2, "'contxt'", "context"),
    (["weigh", "gpt2", "--what-if", "context"], 2, "no change", "context=32768"),
    (["weigh", "gpt2", "gpt2-xl", "--what-if", "context=5"], 2, "one model", "second"),
    (["weigh", "gpt2", "--tensors"], 2, "--weights", "Q4_K_M"),
    (["weigh", "gpt2", "--contxt", "5"], 2, "--contxt", "--context"),
    (["weigh", "gpt2", "--context", "0"], 2, "--context", "--help"),
    (["weigh"], 2, "no model", "llama-3.1-8b"),
    (["weigh", "--hidden-size", "0", "--layers", "2"], 2, "hidden_size", "another size"),
    (["weigh", "--hidden-size", "1000000000000", "--layers", "2"], 2, "hidden_size", "another size"),
    (["weigh", "gpt2", "--recipe", "int3"], 2, "'int3'", "mixed"),
    (["weigh", "gpt2", "--recompute", "some"], 2, "'some'", "selective"),
    (["weigh", "gpt2", "--attention", "slow"], 2, "'slow'", "flash"),
    (["weigh", "./not-there.gguf"], 1, "not-there.gguf", ""),
    (["weigh", "gpt2", "--svg", "/nowhere/at/all.svg"], 1, "/nowhere/at/all.svg", ""),
]


@pytest.mark.parametrize(("arguments", "code", "what", "remedy"), WRONG, ids=lambda value: str(value)[:50])
def test_what_is_wrong_is_said(here: Here, arguments: list[str], code: int, what: str, remedy: str) -> None:
    ended = here(*arguments)
    assert ended.code == code
    first, *rest = ended.err.splitlines()
    assert first.startswith("error: ")
    assert what in first
    assert remedy in " ".join(line.strip() for line in rest)
    assert "Traceback" not in ended.err
    assert "nobody expected" not in ended.err


def test_a_file_cut_short(here: Here, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00\x05")
    ended = here("weigh", str(path), "--json")
    assert ended.code == 1
    assert ended.document["error"]["code"] == "corrupt_file"


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-8b"])
def test_weighing_imports_no_engine_and_no_network(name: str) -> None:
    code = (
        "import sys, json; from boli.cli.app import run\n"
        "run(json.loads(sys.argv[1])); print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    arguments = json.dumps(["weigh", name, "--device", CARD, "--json"])
    done = subprocess.run(
        [sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True, env=environment()
    )
    imported: set[Any] = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"numba", "llvmlite", "torch", "transformers", "tokenizers", "jinja2", "safetensors", "numpy"}
    assert not imported & (heavy | {"urllib.request", "http.client", "rich.console"})
