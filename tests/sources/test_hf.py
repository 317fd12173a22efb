"""The Hugging Face hub: its real library against a server on the loopback interface."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sources.fake_hubs import COMMIT, NEXT_COMMIT, Hub, gguf, small_model
from sources.fresh_process import Home, answers
from sources.loopback_site import Reply, Site, nothing_listens

NEEDED = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def hub() -> Hub:
    return Hub({"org/tiny": small_model()})


@pytest.fixture
def site(hub: Hub) -> Iterator[Site]:
    with Site(hub.answer) as site:
        yield site


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", HF_ENDPOINT=site.url)


def test_takes_only_what_it_needs_into_the_librarys_cache(home: Home, site: Site) -> None:
    answer = home.resolve("org/tiny")
    assert answer.result[0] == "hf:org/tiny"
    assert answer.result[2] == "hf"
    assert answer.path == home.cache / "huggingface" / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    assert sorted(path.name for path in answer.path.iterdir()) == NEEDED
    for name in NEEDED:
        assert (answer.path / name).read_bytes() == small_model()[name]
    total = sum(len(small_model()[name]) for name in NEEDED)
    assert answer.started == [("hf:org/tiny", total)]
    assert (answer.nbytes, answer.finished) == (total, 1)
    assert (answer.path.parents[1] / "refs" / "main").read_text() == COMMIT
    assert not site.seen("GET", "pytorch_model")
    assert not site.seen("GET", "modeling_tiny")


def test_the_librarys_own_functions_find_what_boli_fetched(home: Home) -> None:
    home.resolve("org/tiny")
    script = "import huggingface_hub as h; print(h.snapshot_download('org/tiny', local_files_only=True))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=home.environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).name == COMMIT


def test_cached_models_need_no_network(home: Home, site: Site) -> None:
    first = home.resolve("hf:org/tiny")
    asked = len(site.requests)
    assert home.resolve("hf:org/tiny").path == first.path
    assert len(site.requests) == asked
    home.environment["HF_HUB_OFFLINE"] = "1"
    assert home.resolve("hf:org/tiny").path == first.path
    refreshed = home.resolve("hf:org/tiny", refresh=True)
    assert refreshed.path == first.path
    assert "HF_HUB_OFFLINE" in refreshed.notices[0]


def test_network_down(home: Home) -> None:
    first = home.resolve("org/tiny")
    with nothing_listens() as nowhere:
        home.environment["HF_ENDPOINT"] = nowhere
        refreshed, missing = home.run(("resolve", "org/tiny"), ("resolve", "org/other"), refresh=True)
    assert refreshed.path == first.path
    assert "could not fetch" in refreshed.notices[0]
    assert missing.error == "NetworkError"
    assert "HF_ENDPOINT" in missing.text
    assert nowhere in missing.text


def test_not_cached_and_not_to_be_fetched(home: Home, site: Site) -> None:
    home.environment["HF_HUB_OFFLINE"] = "1"
    offline = home.resolve("org/tiny")
    assert offline.error == "NetworkError"
    assert "HF_HUB_OFFLINE" in offline.text
    refused = home.resolve("org/tiny", download=False)
    assert refused.error == "ModelNotFound"
    assert "boli models pull hf:org/tiny" in refused.text
    assert not site.requests


def test_refresh_follows_the_branch_and_fetches_only_what_changed(home: Home, hub: Hub, site: Site) -> None:
    home.resolve("org/tiny")
    hub.repos["org/tiny"]["config.json"] = b'{"model_type": "qwen2"}'
    hub.commits = {"main": NEXT_COMMIT, NEXT_COMMIT: NEXT_COMMIT}
    before = len(site.seen("GET", "model.safetensors"))
    assert home.resolve("org/tiny").path.name == COMMIT
    assert home.resolve("org/tiny", refresh=True).path.name == NEXT_COMMIT
    assert len(site.seen("GET", "model.safetensors")) == before


def test_every_file_comes_from_one_commit(home: Home, site: Site) -> None:
    tag, commit = home.run(("resolve", "org/tiny@v1"), ("resolve", f"org/tiny@{COMMIT}"))
    assert tag.result[0] == "hf:org/tiny@v1"
    assert commit.path == tag.path
    fetched = site.seen("GET", "/resolve/")
    assert len(fetched) == len(NEEDED)
    assert all(f"/resolve/{COMMIT}/" in request.path for request in fetched)


def test_choosing_a_gguf(home: Home, hub: Hub, site: Site) -> None:
    hub.repos["org/ggufs"] = {
        "tiny-Q4_K_M.gguf": gguf(3000, 1),
        "tiny-Q8_0.gguf": gguf(5000, 2),
        "deep/tiny-F16.gguf": gguf(7000, 3),
        "mmproj-tiny.gguf": gguf(100, 4),
        "big-F32-00001-of-00002.gguf": gguf(10, 5),
        "big-F32-00002-of-00002.gguf": gguf(10, 6),
    }
    ambiguous, quant, file, deep, missing, split = home.run(
        ("resolve", "org/ggufs"),
        ("resolve", "org/ggufs:q4_k_m"),
        ("resolve", "hf:org/ggufs/tiny-Q8_0.gguf@main"),
        ("resolve", "hf:org/ggufs/deep/tiny-F16.gguf"),
        ("resolve", "hf:org/ggufs:Q5_0"),
        ("resolve", "hf:org/ggufs:F32"),
    )
    assert ambiguous.error == "UsageError"
    assert "hf:org/ggufs/tiny-Q8_0.gguf (5.0 kB)" in ambiguous.text
    assert quant.path.read_bytes() == gguf(3000, 1)
    assert file.path.read_bytes() == gguf(5000, 2)
    assert file.result[0] == "hf:org/ggufs/tiny-Q8_0.gguf@main"
    assert deep.path.read_bytes() == gguf(7000, 3)
    assert (missing.error, split.error) == ("ModelNotFound", "UnsupportedModel")
    assert len(site.seen("GET", ".gguf")) == 3


def test_shards_follow_the_index(home: Home, hub: Hub) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = b'{"weight_map": {"a": "%s", "b": "%s"}}' % tuple(name.encode() for name in names)
    repo = {name: body for name, body in small_model().items() if name != "model.safetensors"}
    repo |= {"model.safetensors.index.json": index, names[0]: gguf(99, 1), names[1]: gguf(99, 2)}
    hub.repos["org/shards"] = repo | {"consolidated.safetensors": gguf(99, 3)}
    path = home.resolve("org/shards").path
    assert sorted(file.name for file in path.glob("*.safetensors")) == names
    (path / names[1]).unlink()  # an incomplete snapshot, as another program may leave it, is completed
    assert (home.resolve("org/shards").path / names[1]).read_bytes() == gguf(99, 2)


def test_two_processes_at_once(home: Home, hub: Hub) -> None:
    hub.replies["model.safetensors"] = [
        Reply(small_model()["model.safetensors"], slow=0.05) for _ in range(2)
    ]
    processes = [home.start(("resolve", "org/tiny")) for _ in range(2)]
    paths = {answers(process)[0].path for process in processes}
    assert len(paths) == 1
    assert (paths.pop() / "model.safetensors").read_bytes() == small_model()["model.safetensors"]


def test_installed_and_remove(home: Home, hub: Hub) -> None:
    hub.repos["org/ggufs"] = {"a-Q4_0.gguf": gguf(3000, 1), "a-Q8_0.gguf": gguf(5000, 2)}
    *_, listed = home.run(
        ("resolve", "org/tiny"),
        ("resolve", "org/tiny@v1"),
        ("resolve", "org/ggufs:Q4_0"),
        ("resolve", "org/ggufs:Q8_0"),
        "installed",
    )
    total = sum(len(small_model()[name]) for name in NEEDED)
    assert [(entry[0], entry[3]) for entry in listed.result] == [
        ("hf:org/ggufs/a-Q4_0.gguf", 3000),
        ("hf:org/ggufs/a-Q8_0.gguf", 5000),
        ("hf:org/tiny", total),
        ("hf:org/tiny@v1", total),
    ]
    one, again, rest, tiny, listed = home.run(
        ("remove", "hf:org/ggufs/a-Q4_0.gguf"),
        ("remove", "org/ggufs:Q4_0"),
        ("remove", "hf:org/ggufs"),
        ("remove", "org/tiny"),
        "installed",
    )
    assert one.result == 3000
    assert again.error == "ModelNotFound"
    assert rest.result >= 5000
    assert tiny.result >= total
    assert listed.result == []
    assert not (home.cache / "huggingface/hub/models--org--tiny").exists()
