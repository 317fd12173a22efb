"""A model's folder is data: nothing in it is run, whatever it is called, with or without `-O`."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from boli.engine.loading import load
from boli.errors import BoliError
from server.tiny_server import CONTEXT, tiny_folder

SOURCE = Path(__file__).parents[2] / "src" / "boli"
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.path, "sung"))


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A good model among everything that would like to be run."""
    folder = tiny_folder(tmp_path)
    canary = tmp_path / "canary"
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "weights.npy", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    for name in ("modeling_x.py", "tokenization_x.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (folder / name).write_text(f"open({str(canary)!r}, 'w').write('sung')\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"auto_map": {"AutoModelForCausalLM": "modeling_x.X", "AutoTokenizer": "tokenization_x.X"}}
        content |= {"trust_remote_code": True, "sub_config": {"trust_remote_code": True}}
        (folder / name).write_text(json.dumps(content))
    return folder


RUN = """
import sys
from boli.engine.loading import load
with load(sys.argv[1], context=64) as llm:
    llm.generate("hello", max_tokens=2)
assert not [name for name in sys.modules if name.endswith("modeling_x")]
if [m for m in sys.modules.values() if str(getattr(m, "__file__", "")).startswith(sys.argv[1])]:
    sys.exit(3)
"""


@pytest.mark.parametrize("flags", [[], ["-O"]])
def test_nothing_in_a_folder_is_run(trap: Path, flags: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *flags, "-c", RUN, str(trap)], capture_output=True, text=True, timeout=120, cwd=trap,
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONSAFEPATH": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (trap.parent / "canary").exists()


def test_pickles_alone_are_no_model(trap: Path) -> None:
    for path in trap.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(BoliError):
        load(trap, context=CONTEXT)
    assert not (trap.parent / "canary").exists()


def test_the_source_has_no_way_to_run_data() -> None:
    """No pickle, no `eval`, no `torch.load`; `exec` only where kernels are compiled from our own text."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module.split(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id] if node.func.id in ("eval", "exec", "__import__") else []
            elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
                names = (
                    [node.arg]
                    if not (isinstance(node.value, ast.Constant) and node.value.value is False)
                    else []
                )
            found += [
                f"{path.relative_to(SOURCE)}: {name}"
                for name in names
                if name in FORBIDDEN | {"eval", "exec", "__import__", "allow_pickle", "trust_remote_code"}
            ]
    assert not found
