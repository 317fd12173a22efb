"""Folders and files of the user's own, and what a name means before any network is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boli.errors import ModelNotFound, UnsafeFile, UsageError
from boli.sources import remove, resolve
from boli.sources.progress import Quiet
from sources.cache_layouts import hf_snapshot
from sources.fake_hubs import gguf
from sources.fresh_process import Home, bare_python


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "MODELSCOPE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache" / "modelscope"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


def folder(name: str, *files: str) -> Path:
    path = Path(name)
    path.mkdir(parents=True)
    for file in files:
        (path / file).write_bytes(gguf() if file.endswith(".gguf") else b"{}")
    return path


def test_a_folder_in_the_hugging_face_layout() -> None:
    path = folder("tiny", "config.json", "model.safetensors", "extra.gguf")
    for text in ("tiny", "./tiny", "tiny/", str(path.absolute())):
        found = resolve(text, download=False)
        assert (found.path, found.source) == (path.absolute(), "folder")
    assert resolve(found.name, download=False) == found


def test_a_gguf_by_itself_and_alone_in_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder("one", "m.gguf", "mmproj-m.gguf", "README.md").absolute() / "m.gguf"
    assert resolve("one", download=False).path == path
    assert resolve("one/m.gguf", download=False).source == "file"
    monkeypatch.setenv("HOME", str(path.parents[1]))
    assert resolve("~/one/m.gguf", download=False).path == path
    blob = path.rename(path.with_name("d34db33f"))  # as hubs name their files
    assert resolve("one/d34db33f", download=False).path == blob


def test_a_split_gguf_is_left_to_the_reader() -> None:
    path = folder("split", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert resolve("split", download=False).path == path.absolute() / "m-00001-of-00002.gguf"


def test_several_ggufs() -> None:
    folder("many", "a.gguf", "b.gguf")
    with pytest.raises(UsageError, match=r"a\.gguf, b\.gguf"):
        resolve("many")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"])
def test_pickles_are_refused_unopened(file: str) -> None:
    path = folder("pickles", "config.json", file)
    (path / file).chmod(0)
    for text in ("pickles", f"./pickles/{file}"):
        with pytest.raises(UnsafeFile, match="runs that program"):
            resolve(text)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "no config.json"),
        (("config.json",), "no \\*.safetensors"),
        (("model.safetensors",), "put the model's config.json beside"),
        (("notes.txt",), "no config.json"),
    ],
)
def test_folders_without_a_model(files: tuple[str, ...], said: str) -> None:
    folder("empty", *files)
    with pytest.raises(ModelNotFound, match=said):
        resolve("./empty")


def test_misspelt_paths_name_the_nearest() -> None:
    folder("models/tiny-chat", "config.json", "model.safetensors")
    with pytest.raises(ModelNotFound, match="did you mean models/tiny-chat"):
        resolve("./models/tiny-chst")
    with pytest.raises(ModelNotFound, match="no folder"):
        resolve("./nowhere/tiny")
    with pytest.raises(UsageError, match="name its folder"):
        resolve("./models/tiny-chat/model.safetensors")
    with pytest.raises(ModelNotFound, match="does not begin as a GGUF"):
        resolve("./models/tiny-chat/config.json")


def test_what_cannot_be_read() -> None:
    os.mkfifo("pipe.gguf")
    Path("loop.gguf").symlink_to("loop.gguf")
    for text in ("./pipe.gguf", "./loop.gguf", "./" + "x" * 300, "~nobody-of-this-name/m.gguf"):
        with pytest.raises(ModelNotFound):
            resolve(text)


def test_a_path_wins_over_a_hub_but_not_over_a_short_name() -> None:
    folder("org/name", "config.json", "model.safetensors")
    assert resolve("org/name", download=False).source == "folder"
    folder("org/empty")
    with pytest.raises(ModelNotFound, match="hf:org/empty is not on this machine"):
        resolve("org/empty", download=False)
    folder("smollm2", "config.json", "model.safetensors")
    with pytest.raises(ModelNotFound, match="boli models pull smollm2"):
        resolve("smollm2", download=False)
    assert resolve("./smollm2", download=False).source == "folder"


@pytest.mark.parametrize(
    ("typed", "meant"), [("smolm2", "smollm2"), ("SmolLM2", "smollm2"), ("gemma-270m", "gemma3-270m")]
)
def test_misspelt_names(typed: str, meant: str) -> None:
    with pytest.raises(ModelNotFound, match=f"did you mean {meant}"):
        resolve(typed)


def test_what_is_the_users_own_is_never_deleted() -> None:
    path = folder("mine", "m.gguf")
    for text in ("mine", "./mine", "mine/m.gguf", str(path.absolute())):
        with pytest.raises(UsageError, match="your own"):
            remove(text)
    with pytest.raises(ModelNotFound, match="not in a cache"):
        remove("smollm2")
    with pytest.raises(ModelNotFound, match="did you mean smollm2"):
        remove("smollm")
    assert (path / "m.gguf").exists()


def test_notices_reach_the_log_when_no_progress_is_given(caplog: pytest.LogCaptureFixture) -> None:
    Quiet().notice("These are the terms.")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "These are the terms.")
    ]


def test_without_the_libraries_of_the_hubs(tmp_path: Path) -> None:
    python = bare_python(tmp_path)
    cached = hf_snapshot(tmp_path / "home" / "cache" / "huggingface" / "hub", "org/cached")
    found = Home(tmp_path / "home").run(
        ("resolve", "org/name"), ("resolve", "ms:org/name"), ("resolve", "org/cached"), python=python
    )
    assert [answer.error for answer in found] == ["MissingExtra", "MissingExtra", ""]
    assert all("pip install -c constraints.txt '.[hub]'" in answer.text for answer in found[:2])
    assert found[2].path == cached


def test_importing_loads_nothing_heavy() -> None:
    heavy = [
        "huggingface_hub",
        "modelscope_hub",
        "requests",
        "tqdm",
        "urllib.request",
        "ssl",
        "zipfile",
        "numpy",
    ]
    script = f"import sys, boli.sources; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_file_in_a_folder_is_not_asked_of_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="no file or folder"):
        resolve("models/none.gguf")
