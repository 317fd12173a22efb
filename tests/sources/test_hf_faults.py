"""A Hugging Face hub that is hostile, broken or closed, and a disk that is full."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from sources.fake_hubs import COMMIT, Hub, gguf, small_model
from sources.fresh_process import Home, files_below, interrupt
from sources.loopback_site import Reply, Site


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


def test_only_pickles(home: Home, hub: Hub, site: Site) -> None:
    hub.repos["org/pickled"] = {
        "config.json": b"{}",
        "pytorch_model.bin": b"\x80\x04",
        "tokenizer.json": b"{}",
    }
    answer = home.resolve("org/pickled")
    assert answer.error == "UnsafeFile"
    assert "pytorch_model.bin" in answer.text
    assert not site.seen("GET", "/resolve/")


def test_listed_paths_that_lead_out(home: Home, hub: Hub, site: Site) -> None:
    paths = ["../../evil.safetensors", "/etc/evil.gguf", "..\\evil.gguf", "a/../../b.gguf", "a\0b.gguf"]
    for number, path in enumerate(paths):
        hub.repos[f"evil/{number}"] = small_model()
        hub.listed_extra[f"evil/{number}"] = {"rfilename": path, "size": 3}
    found = home.run(*(("resolve", f"evil/{number}") for number in range(len(paths))))
    assert [answer.error for answer in found] == ["IntegrityError"] * len(paths)
    assert not site.seen("GET", "/resolve/")
    assert not files_below(home.folder)


def test_tags_that_lead_out(home: Home, hub: Hub, site: Site) -> None:
    """The library would name a file by them, outside of its cache."""
    for number, tag in enumerate(["../../../../../evil", str(home.folder / "evil")]):
        hub.repos[f"evil/{number}"] = {f"{number}.gguf": gguf(100, number)}
        hub.tags[f"{number}.gguf"] = tag
    found = home.run(("resolve", "evil/0"), ("resolve", "evil/1"))
    assert [answer.error for answer in found] == ["IntegrityError"] * 2
    assert not site.seen("GET", ".gguf")
    assert not [file for file in files_below(home.folder) if "evil" in Path(file).name]


def test_wrong_content(home: Home, hub: Hub) -> None:
    for name in ("config.json", "model.safetensors"):
        body = bytearray(small_model()[name])
        body[10] ^= 1
        hub.replies[name] = [Reply(bytes(body))]
    config, weights, good = home.run(*[("resolve", "org/tiny")] * 3)
    assert (config.error, weights.error) == ("IntegrityError", "IntegrityError")
    assert config.text.startswith("config.json is not what was promised")
    assert weights.text.startswith("model.safetensors is not what was promised")
    assert (config.finished, len(config.started)) == (1, 1)
    for path in good.path.iterdir():
        assert path.read_bytes() == small_model()[path.name]


def test_wrong_length(home: Home, hub: Hub) -> None:
    hub.listed_size["model.safetensors"] = 59_999
    answer = home.resolve("org/tiny")
    assert answer.error == "IntegrityError"
    assert "59999" in answer.text
    assert not [file for file in files_below(home.cache) if "safetensors" in file]
    assert not (home.cache / "huggingface/hub/models--org--tiny/refs/main").exists()


def test_a_connection_that_breaks_is_taken_up_again(home: Home, hub: Hub, site: Site) -> None:
    body = gguf(4096, 9) * 3000
    hub.repos["org/tiny"]["model.safetensors"] = body
    hub.replies["model.safetensors"] = [Reply(body, cut=11 * 2**20)]
    answer = home.resolve("org/tiny")
    assert (answer.path / "model.safetensors").read_bytes() == body
    ranges = [request.headers.get("range") for request in site.seen("GET", "model.safetensors")]
    assert ranges == [None, f"bytes={10 * 2**20}-"]  # the library keeps pieces of 10 MiB
    assert answer.nbytes == answer.started[0][1]


def test_the_token_goes_to_the_hub_and_nowhere_else(home: Home, hub: Hub, site: Site) -> None:
    hub.private_token, hub.cdn = "hf_canary", site.other_host
    refused = home.resolve("org/tiny")
    assert refused.error == "ModelNotFound"
    assert "HF_TOKEN" in refused.text
    home.environment["HF_TOKEN"] = "hf_canary"
    assert (home.resolve("org/tiny").path / "model.safetensors").stat().st_size == 60_000
    elsewhere = site.seen("GET", "/cdn/")
    assert elsewhere
    assert not any("hf_canary" in str(request.headers) for request in elsewhere)


def test_gated(home: Home, hub: Hub, site: Site) -> None:
    hub.gated = True
    answer = home.resolve("org/tiny")
    assert answer.error == "NetworkError"
    assert "HF_TOKEN" in answer.text
    assert f"{site.url}/org/tiny" in answer.text


def test_unknown_repository_and_revision(home: Home) -> None:
    _, repository, revision = home.run(
        *(("resolve", name) for name in ("org/tiny", "org/tinny", "org/tiny@v9"))
    )
    assert (repository.error, revision.error) == ("ModelNotFound", "ModelNotFound")
    assert "hf:org/tiny" in repository.text
    assert "no revision v9" in revision.text


def test_more_than_the_disk_holds(home: Home, hub: Hub, site: Site) -> None:
    hub.listed_size["model.safetensors"] = 2**49
    answer = home.resolve("org/tiny")
    assert answer.error == "StorageError"
    assert str(2**49)[:4] in answer.text
    assert not site.seen("GET", "/resolve/")


def test_disk_that_fills_up(home: Home) -> None:
    home.environment["TEST_FILE_LIMIT"] = "50000"
    answer = home.resolve("org/tiny")
    assert answer.error == "StorageError"
    assert not [file for file in files_below(home.cache) if "incomplete" in file]
    del home.environment["TEST_FILE_LIMIT"]
    assert home.resolve("org/tiny").path.name == COMMIT


def test_a_small_file_that_unpacks_to_a_large_one(home: Home, hub: Hub) -> None:
    hub.replies["config.json"] = [
        Reply(gzip.compress(bytes(60_000_000), 1), headers={"Content-Encoding": "gzip"})
    ]
    home.environment["TEST_FILE_LIMIT"] = "50000000"
    answer = home.resolve("org/tiny")
    assert answer.error == "IntegrityError"
    assert "longer" in answer.text
    sizes = [(home.cache / file).stat().st_size for file in files_below(home.cache)]
    assert max(sizes) < 1000  # the file that came before it, and nothing of this one


def test_interrupt(home: Home, hub: Hub, site: Site) -> None:
    hub.replies["model.safetensors"] = [Reply(small_model()["model.safetensors"], slow=0.3)]
    process = home.start(("resolve", "org/tiny"))
    interrupt(process, lambda: bool(site.seen("GET", "model.safetensors")))
    assert not [
        file for file in files_below(home.cache) if "incomplete" in file or "model.safetensors" in file
    ]
    assert home.resolve("org/tiny", download=False).error == "ModelNotFound"
    assert (home.resolve("org/tiny").path / "model.safetensors").is_file()
