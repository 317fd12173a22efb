"""The whole account: that it is consistent, traceable, and can be asked for in every way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

from boli import weigh
from boli.errors import ModelNotFound, UnsupportedModel, UsageError
from boli.weigh.account import Account, summary
from boli.weigh.amount import amount

KEYS = {
    "model", "parameters", "active_parameters", "weights", "formats", "kv_cache", "run", "speed", "training",
    "fits", "formulas",
}  # fmt: skip
MODELS = [
    "llama-3.1-8b",
    "smollm2",
    "gemma-3-270m",
    "deepseek-v3",
    "mixtral-8x7b",
    "t5-small",
    "bert-base",
    "gpt2",
]


@pytest.fixture(scope="module")
def llama() -> Account:
    return weigh("llama-3.1-8b", device="RTX 3060 12GB", weights="Q4_K_M")


@pytest.mark.parametrize(
    "before",
    ["", "import boli.weigh.account;", "from boli.weigh import account;", "import boli.weigh.amount as a;"],
)
def test_the_package_can_be_called_whatever_was_imported(before: str) -> None:
    code = (
        f"{before}import boli; assert boli.weigh('gpt2').weights.parameters.value == 124_439_808\n"
        "import boli.weigh.training; assert boli.weigh('gpt2', context=64).context == 64\n"
        "from boli import weigh; assert weigh is boli.weigh; weigh.account.Account\n"
        "from boli.weigh import weigh as function; assert function('gpt2').model.name == 'gpt2'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, boli.weigh, boli.weigh.account; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "torch", "transformers", "rich", "typer", "numba"}


def test_bolis_own_engine_is_weighed_without_numpy() -> None:
    code = (
        "import sys, boli; account = boli.weigh('smollm2-135m'); account.to_json();"
        "assert account.engine == 'boli' and account.run is not None; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "torch", "numba", "llvmlite"}


@pytest.mark.parametrize("name", MODELS)
def test_the_document_is_complete_and_adds_up(name: str) -> None:
    document = json.loads(json.dumps(weigh(name).to_json(), allow_nan=False))
    assert document.keys() >= KEYS
    rows = document["weights"]
    assert sum(row["parameters"] for row in rows) == document["parameters"]
    assert document["active_parameters"] > 0
    for row in rows:
        assert row.keys() == {"name", "role", "layer", "shape", "parameters", "type", "bytes", "tied_to"}
        assert row["parameters"] == (0 if row["tied_to"] else prod(row["shape"]))
    run = document["run"]
    assert run["total"] == sum(size for category, size in run.items() if category != "total")
    assert {"bytes_per_token", "bytes", "fixed_bytes"} <= document["kv_cache"].keys()
    assert document["fits"] is (document["what_fits"]["free"] >= 0)
    assert document["not_modelled"]
    assert {"Q4_0", "Q4_K_M", "Q8_0", "FP16", "INT4-g128", "NF4"} <= document["formats"].keys()


@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_what_its_formula_gives(name: str) -> None:
    account = weigh(name, device="A100 80GB", context=2048, training={"zero": 3, "devices": 8})
    formulas: Any = account.to_json()["formulas"]
    assert len(formulas) > 60
    for path, each in formulas.items():
        again = amount(each["unit"], each["formula"], each["inputs"]).value
        assert again == pytest.approx(each["value"], rel=1e-12), path
        assert each["certainty"] in ("exact", "calibrated", "measured", "assumed")
        numbers = re.sub(r"\b[a-zA-Z_]\w*\b", "", each["explained"])
        assert re.search(r"\d", numbers), path


def test_every_plain_number_of_the_document_has_a_formula(llama: Account) -> None:
    document: Any = llama.to_json()
    for part in ("kv_cache", "run", "speed", "training"):
        for name, value in document[part].items():
            if isinstance(value, int | float) and name not in ("context", "requests", "zero", "devices"):
                assert document["formulas"][f"{part}.{name}"]["value"] == value
    assert document["formulas"]["parameters"]["value"] == document["parameters"]


def test_published_numbers(llama: Account) -> None:
    assert llama.weights.parameters.value == 8_030_261_248
    assert llama.weights.bytes.value == 4_912_898_048
    assert llama.kv is not None
    assert llama.kv.bytes_per_token.value == 131_072
    assert llama.fits is not None
    assert llama.fits.fits
    head = next(row for row in llama.weights.rows if row.role == "head")
    assert head.parameters == 525_336_576
    assert round(100 * head.parameters / llama.weights.parameters.value, 1) == 6.5


@pytest.mark.parametrize("name", ["llama-3.1-8b", "smollm2", "mixtral-8x7b"])
def test_qlora_and_the_formats_say_the_same_of_nf4(name: str) -> None:
    account = weigh(name)
    assert account.training.adapters.frozen_nf4.value == account.formats["NF4-DQ"].bytes.value


def test_a_format_is_found_however_it_is_written(llama: Account) -> None:
    assert weigh("llama-3.1-8b", weights="q4-k-m").weights.bytes == llama.weights.bytes
    account = weigh("gpt2", weights="int4")
    assert account.format is not None
    assert account.format.name == "INT4-g128"


def test_more_context_and_more_requests_never_take_less() -> None:
    def total(**asked: Any) -> float:
        fits = weigh("gemma-3-270m", **asked).fits
        assert fits is not None
        return fits.total.value

    contexts = [total(context=context) for context in (1, 31, 32, 33, 1000, 32_768)]
    requests = [total(context=512, requests=count) for count in (1, 2, 3, 64)]
    assert contexts == sorted(contexts)
    assert requests == sorted(requests)


def test_whose_rules_go(llama: Account) -> None:
    assert llama.engine == "model"  # on a GPU boli does not run
    assert weigh("llama-3.1-8b").engine == "boli"
    assert weigh("llama-3.1-8b", weights="IQ1_S").engine == "model"  # boli does not compute with it
    assert weigh("deepseek-v3").engine == "model"
    assert weigh("llama-3.1-8b", engine="vllm").engine == "vllm"
    assert weigh("llama-3.1-8b", kv_dtype="int8").engine == "model"
    with pytest.raises(UnsupportedModel, match="boli does not run IQ1_"):
        weigh("llama-3.1-8b", weights="IQ1_S", engine="boli")


def test_the_run_is_the_same_in_all_parts() -> None:
    account = weigh("smollm2", context=1024)
    assert account.run is not None
    assert account.kv is not None
    assert account.run.categories["kv_cache"] == account.kv.bytes
    assert account.fits is not None
    assert account.fits.total.value == account.run.total.value + account.run.logits_row.value


def test_a_shape_takes_the_place_of_the_models_own() -> None:
    less = weigh("llama-3.1-8b", num_key_value_heads=4)
    more = weigh("llama-3.1-8b")
    assert less.kv is not None
    assert more.kv is not None
    assert 2 * less.kv.bytes_per_token.value == more.kv.bytes_per_token.value
    assert less.weights.parameters.value < more.weights.parameters.value


def test_shapes_alone_are_a_model() -> None:
    account = weigh(hidden_size=4096, num_hidden_layers=32, intermediate_size=11008)
    assert account.weights.parameters.value == 6_738_415_616
    assert account.model.notes


def test_the_summary_is_of_amounts_in_the_account(llama: Account) -> None:
    found = summary(llama)
    assert found["weights"] is llama.weights.bytes
    assert "decode" in found
    assert "decode" not in summary(weigh("llama-3.1-8b"))


def test_a_list_of_tensors_says_what_it_can(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"mystery": np.zeros((3, 5), np.float32)}, tmp_path / "some.safetensors")
    account = weigh(tmp_path / "some.safetensors")
    assert account.weights.parameters.value == 15
    assert (account.kv, account.run, account.fits, account.speed) == (None, None, None, None)
    document: Any = account.to_json()
    assert document["kv_cache"] is document["run"] is document["fits"] is None
    assert document["training"]["states"] == 240
    assert any("only the tensors" in line for line in account.not_modelled)


@pytest.mark.parametrize(
    ("model", "options", "error", "complaint"),
    [
        ("llama-3.1-8c", {}, ModelNotFound, "llama-3.1-8"),
        ("gpt2", {"weights": "Q9_K"}, UsageError, "no number format 'Q9_K'"),
        ("gpt2", {"device": "RTX 9999"}, UsageError, "no device"),
        ("gpt2", {"engine": "tgi"}, UsageError, "no engine 'tgi'"),
        ("gpt2", {"kv_dtype": "int7"}, UsageError, "int7"),
        ("gpt2", {"context": -5}, UsageError, "context"),
        ("gpt2", {"context": 10**12}, UsageError, "context"),
        ("gpt2", {"requests": 0}, UsageError, "requests"),
        ("gpt2", {"threads": -1}, UsageError, "threads"),
        ("gpt2", {"hidden": 5}, UsageError, "hidden_size"),
        ("", {}, UsageError, "no model"),
        ("", {"hidden_size": 0, "num_hidden_layers": 2}, UsageError, "hidden_size"),
        ("", {"hidden_size": 10**12, "num_hidden_layers": 2}, UsageError, "hidden_size"),
        ("gpt2", {"training": {"zero": 7}}, UsageError, "no stage 7"),
    ],
)
def test_senseless_questions(
    model: str, options: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=re.escape(complaint)):
        weigh(model, **options)
