"""The parts of `benchmarks/peers.py` that need no peer."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from boli.formats.numbers import dequantize
from boli.formats.table import FORMATS

FOLDER = Path(__file__).parents[2] / "benchmarks"


def module(name: str) -> ModuleType:
    """One of the benchmark's files; they are no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look for their module
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def engines() -> ModuleType:
    return module("engines")


def spread(value: float) -> dict[str, float]:
    return {"median": value, "min": value - 1, "max": value + 1}


SPEED = {
    "kind": "speed", "work": "decode 128, smollm2", "target": 2.7, "ratio": 2.5, "reached": False,
    "date": "D",
    "against": [
        {"rival": "llama.cpp, same file", "boli": spread(250), "peer": spread(100), "ratio": 2.5,
         "ratios": spread(2.5)}
    ],
}  # fmt: skip
FAILED = {"kind": "failed", "work": "start", "reached": None, "error": "no a|b", "date": "D"}
DOCUMENT: dict[str, Any] = {
    "machine": {"cpu": "C", "cores": 2, "memory_bytes": 24e9, "threads": 2},
    "versions": {"boli": "0.1.0"},
    "cases": {"decode": SPEED, "start": FAILED},
}


def test_the_table_has_what_was_measured_and_losses_too(tmp_path: Path) -> None:
    report = module("report")
    report.write(DOCUMENT, tmp_path / "R.md", ["start", "decode", "not-run"], "Built with a barrier.")
    assert "\nBuilt with a barrier.\n" in (tmp_path / "R.md").read_text()
    lines = [line for line in (tmp_path / "R.md").read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1  # as many cells in each
    start, decode = lines[2:]
    assert "not measured" in start
    assert "no a/b" in start
    for cell in ("250.0 (249.0 – 251.0) tok/s", "100.0 (99.0 – 101.0)", "2.50 ×", "2.7 ×", "**no**"):
        assert cell in decode
    assert "2.50 ×" in report.line("decode", SPEED)


def test_every_figure_of_the_table_has_one_case() -> None:
    cases = module("cases").CASES
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    targets = [case.target for case in cases if hasattr(case, "rivals") and case.target]
    assert sorted(targets) == [1.25, 1.25, 1.7, 1.9, 2.2, 2.5, 2.7, 3.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]


@pytest.mark.parametrize("form", ["q4_0", "q8_0"])
def test_random_weights_keep_the_spread_of_what_they_multiply(form: str) -> None:
    blocks = module("models")._random(np.random.default_rng(0), form, 64, 2048)
    values = dequantize(blocks, FORMATS[form.upper()], 2048)
    assert values.std() * 2048**0.5 == pytest.approx(1, rel=0.05)
    assert abs(values.mean()) < 0.15 * values.std()


@pytest.fixture
def worker(engines: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "toy_worker.py").write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(FOLDER / 'workers')!r})\n"
        "from serving import serve\n"
        "class Worker:\n"
        "    def add(self, x, y):\n"
        "        print('noise of a library')\n"
        "        return x + y\n"
        "    def cores(self):\n"
        "        return len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']\n"
        "    def leave(self):\n"
        "        os._exit(3)\n"
        "serve(Worker())\n"
    )
    monkeypatch.setattr(engines, "WORKERS", tmp_path)
    with engines.Engine(sys.executable, "toy", 1) as engine:
        yield engine


def test_an_engine_answers_whatever_its_library_prints(worker: Any) -> None:
    assert worker.ask("add", x=2, y=3) == 5
    assert worker.ask("add", x="我", y="们") == "我们"


def test_an_engine_has_its_processors_only(worker: Any) -> None:
    assert worker.ask("cores") == [1, "1"]


def test_what_fails_in_an_engine_is_told(engines: ModuleType, worker: Any) -> None:
    with pytest.raises(engines.EngineError, match="TypeError"):
        worker.ask("add", x=2, y="3")
    assert worker.ask("add", x=1, y=1) == 2
    with pytest.raises(engines.EngineError, match="ended with code 3"):
        worker.ask("leave")


def test_a_whole_run_is_measured(engines: ModuleType) -> None:
    seconds, resident = engines.whole_run([sys.executable, "-c", "b = bytearray(50_000_000)"])
    assert 0.001 < seconds < 60
    assert 50_000_000 < resident < 100_000_000  # whatever this process holds
    with pytest.raises(engines.EngineError, match="no such thing"):
        engines.whole_run([sys.executable, "-c", "raise SystemExit('no such thing')"])
