"""The hubs' caches as other programs may leave them: shared, incomplete, of another layout, damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boli.errors import ModelNotFound
from boli.sources import installed, remove, resolve
from boli.sources.hub_cache import cached, root
from boli.sources.names import HubName
from sources.cache_layouts import MODEL, hf_snapshot, plain_folder
from sources.fake_hubs import COMMIT, NEXT_COMMIT

NBYTES = sum(len(body) for body in MODEL.values())


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "MODELSCOPE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def hf() -> Path:
    return root("hf")


@pytest.fixture
def ms() -> Path:
    return root("ms")


def test_where_the_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert root("hf") == tmp_path / "xdg" / "huggingface" / "hub"
    assert root("ms") == tmp_path / ".cache" / "modelscope"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "a"))
    assert root("hf") == tmp_path / "a" / "hub"
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "b"))
    assert root("hf") == tmp_path / "b"
    monkeypatch.setenv("HF_HUB_CACHE", "$HOME/c")
    assert root("hf") == tmp_path / "c"
    monkeypatch.setenv("MODELSCOPE_CACHE", "~/d")
    assert root("ms") == tmp_path / "d"


def test_revisions(hf: Path) -> None:
    first = hf_snapshot(hf, "org/m", refs=("v1",))
    second = hf_snapshot(hf, "org/m", MODEL | {"config.json": b"{ }"}, NEXT_COMMIT, ("main", "refs/pr/1"))
    third = hf_snapshot(hf, "org/m", commit="a" * 40, refs=())
    assert resolve("org/m", download=False).path == second
    assert resolve("org/m@v1", download=False).path == first
    assert resolve(f"org/m@{COMMIT}", download=False).path == first
    assert resolve("org/m@refs/pr/1", download=False).path == second
    assert [model.name for model in installed()] == [
        f"hf:org/m@{third.name}",
        "hf:org/m",
        "hf:org/m@refs/pr/1",
        "hf:org/m@v1",
    ]
    for model in installed():
        assert resolve(model.name, download=False).path == model.path


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_model_is_none(hf: Path, missing: str) -> None:
    hf_snapshot(hf, "org/m", {name: body for name, body in MODEL.items() if name != missing})
    with pytest.raises(ModelNotFound, match="not on this machine"):
        resolve("org/m", download=False)
    assert installed() == []


def test_weights_without_a_tokenizer_serve_only_when_there_is_no_network(hf: Path) -> None:
    snapshot = hf_snapshot(
        hf, "org/m", {name: body for name, body in MODEL.items() if "tokenizer" not in name}
    )
    name = HubName("hf", "org/m")
    assert cached(name) is None
    assert cached(name, tokenizer=False) == snapshot


@pytest.mark.parametrize(
    "index",
    [
        b'{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}',
        b'{"weight_map": {"a": [1]}}',
        b'{"weight_map": {}}',
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_shards_that_are_missing_or_an_index_that_is_none(hf: Path, index: bytes) -> None:
    hf_snapshot(hf, "org/m", MODEL | {"model.safetensors.index.json": index, "m-1.safetensors": b"1"})
    assert cached(HubName("hf", "org/m")) is None


def test_blob_that_is_gone(hf: Path) -> None:
    snapshot = hf_snapshot(hf, "org/m")
    (snapshot / "model.safetensors").resolve().unlink()
    assert cached(HubName("hf", "org/m")) is None
    assert installed() == []


@pytest.mark.parametrize("ref", ["../../../etc", "", "c0ffee", COMMIT * 3, "\0" * 40])
def test_refs_that_are_none(hf: Path, ref: str) -> None:
    snapshot = hf_snapshot(hf, "org/m")
    (snapshot.parents[1] / "refs" / "main").write_text(ref)
    assert cached(HubName("hf", "org/m")) is None
    assert [model.name for model in installed()] == [f"hf:org/m@{COMMIT}"]


def test_what_is_no_model_is_passed_over(hf: Path, ms: Path) -> None:
    hf_snapshot(hf, "org/m")
    plain_folder(ms / "models" / "org--n" / "snapshots" / "master")
    for odd in (
        hf / "datasets--org--d" / "snapshots",
        hf / "models--gpt2",
        hf / "models--a--b" / "snapshots" / "x",
    ):
        odd.mkdir(parents=True)
    (hf / "version.txt").write_text("1")
    (ms / "models" / "x..y").mkdir()
    assert [(model.name, model.nbytes) for model in installed()] == [
        ("hf:org/m", NBYTES),
        ("ms:org/n", NBYTES),
    ]


def test_one_revision_goes_and_what_others_share_stays(hf: Path) -> None:
    config = b'{"only": "in v2"}'
    kept = hf_snapshot(hf, "org/m")
    gone = hf_snapshot(hf, "org/m", MODEL | {"config.json": config}, NEXT_COMMIT, ("v2",))
    assert remove("org/m@v2") == len(config)
    assert not gone.exists()
    assert resolve("org/m", download=False).path == kept
    assert (kept / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert remove("org/m") >= NBYTES
    assert not kept.parents[1].exists()


def test_a_repository_that_is_a_link_is_unlinked_only(hf: Path, tmp_path: Path) -> None:
    snapshot = hf_snapshot(tmp_path / "elsewhere", "org/m")
    hf.mkdir(parents=True)
    (hf / "models--org--m").symlink_to(snapshot.parents[1])
    assert remove("org/m") >= NBYTES
    assert not (hf / "models--org--m").exists()
    assert (snapshot / "config.json").read_bytes() == b"{}"


def test_modelscope_with_revisions_and_the_folders_of_its_older_library(ms: Path) -> None:
    new = plain_folder(ms / "models" / "org--m" / "snapshots" / "v1")
    old = plain_folder(ms / "hub" / "models" / "org" / "m1___5")
    assert resolve("ms:org/m@v1", download=False).path == new
    assert resolve("ms:org/m1.5", download=False).path == old
    with pytest.raises(ModelNotFound):
        resolve("ms:org/m", download=False)
    assert [model.name for model in installed()] == ["ms:org/m@v1", "ms:org/m1.5"]
    assert (remove("ms:org/m@v1"), remove("ms:org/m1.5")) == (NBYTES, NBYTES)
    assert not new.exists()
    assert not old.exists()
    with pytest.raises(ModelNotFound, match="not in a cache"):
        remove("ms:org/m1.5")


def test_one_gguf_of_several(ms: Path) -> None:
    folder = plain_folder(
        ms / "models" / "org--g" / "snapshots" / "master", {"a-Q4_0.gguf": b"GGUF", "a-Q8_0.gguf": b"GGUF8"}
    )
    assert resolve("ms:org/g:q8_0", download=False).path == folder / "a-Q8_0.gguf"
    with pytest.raises(ModelNotFound):
        resolve("ms:org/g", download=False)
    assert remove("ms:org/g:Q8_0") == 5
    assert resolve("ms:org/g", download=False).path == folder / "a-Q4_0.gguf"
    assert remove("ms:org/g/a-Q4_0.gguf") == 4
    assert not (ms / "models" / "org--g").exists()
