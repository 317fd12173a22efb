"""ModelScope: its real library against a server on the loopback interface."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sources.fake_hubs import Hub, gguf, small_model
from sources.fresh_process import Home, files_below, interrupt
from sources.loopback_site import Reply, Site, nothing_listens

NEEDED = [name for name in sorted(small_model()) if name.endswith((".json", ".jinja", ".safetensors"))]
SNAPSHOT = "cache/modelscope/models/org--tiny/snapshots/master"


@pytest.fixture
def hub() -> Hub:
    return Hub({"org/tiny": small_model()})


@pytest.fixture
def site(hub: Hub) -> Iterator[Site]:
    with Site(hub.answer) as site:
        yield site


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", MODELSCOPE_ENDPOINT=site.url)


def fetched(site: Site) -> list[str]:
    return [request.query["FilePath"] for request in site.seen("GET", "/repo") if "FilePath" in request.query]


def test_fetches_once_into_the_librarys_cache(home: Home, site: Site) -> None:
    first, again, listed, missing, freed, after = home.run(
        ("resolve", "ms:org/tiny"),
        ("resolve", "ms:org/tiny"),
        "installed",
        ("resolve", "ms:org/other"),
        ("remove", "ms:org/tiny"),
        "installed",
    )
    total = sum(len(small_model()[name]) for name in NEEDED)
    assert first.result == again.result == ["ms:org/tiny", str(home.folder / SNAPSHOT), "ms"]
    assert first.started == [("ms:org/tiny", total)]
    assert (first.nbytes, first.finished) == (total, 1)
    assert again.started == []
    assert sorted(fetched(site)) == NEEDED
    assert fetched(site)[-1] == "model.safetensors"  # weights last: a folder that has them is whole
    assert listed.result == [["ms:org/tiny", str(home.folder / SNAPSHOT), "ms", total]]
    assert missing.error == "ModelNotFound"
    assert "ms:org/tiny" in missing.text
    assert (freed.result, after.result) == (total, [])


def test_content_and_nothing_else(home: Home, site: Site) -> None:
    path = home.resolve("ms:org/tiny@v1").path
    assert path.name == "v1"
    assert sorted(file.name for file in path.iterdir()) == NEEDED
    for name in NEEDED:
        assert (path / name).read_bytes() == small_model()[name]


def test_no_network(home: Home) -> None:
    first = home.resolve("ms:org/tiny")
    with nothing_listens() as nowhere:
        home.environment["MODELSCOPE_ENDPOINT"] = nowhere
        started = time.monotonic()
        refreshed, missing = home.run(("resolve", "ms:org/tiny"), ("resolve", "ms:org/other"), refresh=True)
    assert time.monotonic() - started < 15
    assert refreshed.path == first.path
    assert "could not fetch" in refreshed.notices[0]
    assert missing.error == "NetworkError"
    assert "MODELSCOPE_ENDPOINT" in missing.text


def test_refresh_fetches_what_changed(home: Home, hub: Hub, site: Site) -> None:
    home.resolve("ms:org/tiny")
    hub.repos["org/tiny"]["config.json"] = b'{"model_type": "qwen2"}'
    answer = home.resolve("ms:org/tiny", refresh=True)
    assert (answer.path / "config.json").read_bytes() == b'{"model_type": "qwen2"}'
    assert fetched(site)[len(NEEDED) :] == ["config.json"]


def test_a_connection_that_breaks_is_taken_up_again(home: Home, hub: Hub, site: Site) -> None:
    body = gguf(4096, 9) * 1000
    hub.repos["org/tiny"]["model.safetensors"] = body
    hub.replies["model.safetensors"] = [Reply(body, cut=3 * 2**20)]
    answer = home.resolve("ms:org/tiny")
    assert (answer.path / "model.safetensors").read_bytes() == body
    asked = [
        request
        for request in site.seen("GET", "/repo")
        if request.query.get("FilePath") == "model.safetensors"
    ]
    assert [request.headers.get("range") for request in asked] == [None, f"bytes={3 * 2**20}-"]
    assert answer.nbytes == answer.started[0][1]


def test_hostile_repositories(home: Home, hub: Hub, site: Site) -> None:
    for number, path in enumerate(["../../evil.safetensors", "/etc/evil.gguf", "..\\evil.gguf"]):
        hub.repos[f"evil/{number}"] = small_model()
        hub.listed_extra[f"evil/{number}"] = {"Path": path, "Size": 3, "Type": "blob"}
    hub.repos["evil/pickles"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}
    hub.repos["evil/huge"] = small_model() | {"huge.gguf": b"GGUF"}
    hub.listed_size["huge.gguf"] = 2**49
    names = ["ms:evil/0", "ms:evil/1", "ms:evil/2", "ms:evil/pickles", "ms:evil/huge/huge.gguf"]
    found = home.run(*(("resolve", name) for name in names))
    assert [answer.error for answer in found] == ["IntegrityError"] * 3 + ["UnsafeFile", "StorageError"]
    assert not fetched(site)
    assert not files_below(home.cache)


def test_content_that_is_not_what_was_listed(home: Home, hub: Hub) -> None:
    body = small_model()["model.safetensors"]
    hub.replies["model.safetensors"] = [Reply(body[:-1] + b"x") for _ in range(3)]
    answer = home.resolve("ms:org/tiny")
    assert answer.error == "IntegrityError"
    assert not [file for file in files_below(home.cache) if "model.safetensors" in file]


def test_the_token_goes_to_modelscope_and_nowhere_else(home: Home, hub: Hub, site: Site) -> None:
    hub.private_token, hub.cdn = "ms-canary", site.other_host
    refused = home.resolve("ms:org/tiny")
    assert refused.error == "ModelNotFound"
    home.environment["MODELSCOPE_API_TOKEN"] = "ms-canary"
    assert (home.resolve("ms:org/tiny").path / "model.safetensors").stat().st_size == 60_000
    elsewhere = site.seen("GET", "/cdn/")
    assert elsewhere
    assert not any("ms-canary" in str(request.headers) for request in elsewhere)


def test_full_disk(home: Home) -> None:
    home.environment |= {"TEST_FILE_LIMIT": "50000", "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0"}
    answer = home.resolve("ms:org/tiny")
    assert answer.error == "StorageError"
    assert not (home.folder / SNAPSHOT / "model.safetensors").exists()


def test_interrupt(home: Home, hub: Hub, site: Site) -> None:
    hub.replies["model.safetensors"] = [Reply(small_model()["model.safetensors"], slow=0.3)]
    process = home.start(("resolve", "ms:org/tiny"))
    interrupt(process, lambda: "model.safetensors" in fetched(site))
    assert not (home.folder / SNAPSHOT / "model.safetensors").exists()
    assert home.resolve("ms:org/tiny", download=False).error == "ModelNotFound"
    path = home.resolve("ms:org/tiny").path
    assert (path / "model.safetensors").read_bytes() == small_model()["model.safetensors"]
