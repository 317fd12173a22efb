"""`boli doctor`."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from boli import __version__, machine
from boli.cpu import target
from cli.shell import Here, boli


def test_it_says_what_the_machine_has(here: Here) -> None:
    ended = here("doctor", "--json")
    assert ended.code == 0
    found = ended.document
    assert found["boli"] == __version__
    assert found["python"] == platform.python_version()
    cpu = found["cpu"]
    assert cpu["name"] == machine.cpu_name()
    assert cpu["usable_cores"] == machine.usable_cores()
    assert cpu["features"]
    assert {name for name, present in cpu["features"].items() if present} <= machine.cpu_features()
    form = cpu["dot_products"]
    assert form == "portable" or cpu["features"][form]
    assert cpu["bf16_products"] in ("avx512bf16", "neon_bf16", "fma", "portable")
    assert cpu["compiled_for"] == target.cpu()
    assert cpu["instruction_sets"] == sorted(name for name, used in target.features().items() if used)
    memory = found["memory"]
    assert 0 < memory["available_bytes"] <= memory["total_bytes"] == machine.memory_total()
    assert found["packages"]["numpy"] == version("numpy")
    assert {"hub", "test"} <= set(found["extras"])


def test_the_text_says_the_same(here: Here) -> None:
    ended = here("doctor")
    assert ended.code == 0
    words = ended.out.split()
    for name, present in here("doctor", "--json").document["cpu"]["features"].items():
        part = ended.out.partition("  has")[2].partition("  lacks")
        assert name in part[0 if present else 2].split()
    assert version("numba") in words
    assert "[test]" in words


def test_it_says_what_a_setting_chooses() -> None:
    ended = boli("doctor", settings={"BOLI_SIMD": "portable"})
    assert "portable for products of integers, portable for bfloat16" in ended.out
    wrong = boli("doctor", settings={"BOLI_SIMD": "mmx"})
    assert wrong.code == 2
    assert "BOLI_SIMD=mmx cannot be used" in wrong.err


def test_it_measures_the_cache_of_kernels(here: Here, tmp_path: Path) -> None:
    empty = here("doctor", "--json", XDG_CACHE_HOME=str(tmp_path)).document["kernel_cache"]
    assert empty == {"path": str(tmp_path / "boli/kernels"), "files": 0, "bytes": 0}
    assert not list(tmp_path.iterdir())  # looking makes nothing
    kernels = tmp_path / "boli/kernels"
    kernels.mkdir(parents=True)
    (kernels / "one.bin").write_bytes(b"123")
    (kernels / "two.bin").write_bytes(b"4567")
    full = here("doctor", "--json", XDG_CACHE_HOME=str(tmp_path)).document["kernel_cache"]
    assert (full["files"], full["bytes"]) == (2, 7)
    assert "2 files, 7 B" in here("doctor", XDG_CACHE_HOME=str(tmp_path)).out


def test_it_names_what_an_extra_lacks(tmp_path: Path) -> None:
    info = tmp_path / "boli-9.dist-info"
    info.mkdir()
    requirements = [
        "numpy>=2.0",
        "not-there-at-all",
        'huggingface-hub>=1.0; extra == "hub"',
        'boli-imaginary>=3; extra == "hub"',
        'numpy>=999; extra == "old"',
        "numpy>=1.0 ; extra == 'fine'",
        'boli[hub,old]; extra == "all"',
    ]
    lines = ["Metadata-Version: 2.1", "Name: boli", "Version: 9"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    ended = boli("doctor", "--json", settings={"PYTHONPATH": str(tmp_path)})
    assert ended.document["packages"] == {"numpy": version("numpy"), "not-there-at-all": None}
    missing = {name: extra["missing"] for name, extra in ended.document["extras"].items()}
    assert missing["hub"][-1] == "boli-imaginary>=3"
    assert missing["old"] == ["numpy>=999"]
    assert missing["fine"] == []
    assert missing["all"] == missing["hub"] + missing["old"]
    text = boli("doctor", settings={"PYTHONPATH": str(tmp_path)}).out
    assert "pip install -c constraints.txt '.[all]'" in text
    assert "complete" in text
