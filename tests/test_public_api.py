"""`import boli`: what it offers, and that it costs nothing until it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest

import boli

HEAVY = {"numpy", "numba", "llvmlite", "torch", "transformers", "tokenizers", "jinja2", "rich", "typer"}


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_list_of_names_is_sorted() -> None:
    assert boli.__all__ == sorted(boli.__all__, key=str.casefold)
    assert len(boli.__all__) == len(set(boli.__all__))


@pytest.mark.parametrize("name", boli.__all__)
def test_every_name_is_there_and_listed(name: str) -> None:
    assert getattr(boli, name).__name__.rpartition(".")[2] == name  # `boli.weigh` is a package
    assert name in dir(boli)


def test_every_error_of_the_tree_is_exported() -> None:
    errors = importlib.import_module("boli.errors")
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)} & set(dir(errors))
    assert {name for name in tree if issubclass(getattr(errors, name), boli.BoliError)} <= set(boli.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'boli' has no attribute 'lode'"):
        _ = boli.lode  # type: ignore[attr-defined]


def test_importing_boli_imports_nothing_heavy() -> None:
    loaded = set(run_python("import boli, sys; print(*sys.modules)").split())
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("boli")} == {"boli", "boli.errors"}


def test_sampling_settings_can_be_checked_without_numpy() -> None:
    code = "import boli, sys; boli.SamplingParams(temperature=0.5); print(*sys.modules)"
    assert not set(run_python(code).split()) & HEAVY


def test_the_front_imports_neither_torch_nor_transformers() -> None:
    loaded = set(run_python("import boli, sys; boli.load; print(*sys.modules)").split())
    assert not loaded & {"torch", "transformers", "numba"}


def test_importing_boli_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import boli; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.2


@pytest.mark.parametrize("threads", [0, -1, 10**6, True, 1.5, "2"])
def test_a_wrong_number_of_threads_is_noticed_before_anything_is_fetched(threads: Any) -> None:
    with pytest.raises(boli.UsageError, match="threads must be a whole number between 1 and"):
        boli.load("no-such-model-at-all", threads=threads)
