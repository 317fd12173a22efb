"""The way without pip: the simple repository API, in good and in bad hands."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boli.errors import BoliError, IntegrityError, ModelNotFound, NetworkError, StorageError
from boli.sources import http, simple_index
from boli.sources.aliases import Part
from sources.fake_index import Index, make_wheel
from sources.heard import Heard
from sources.loopback_site import Reply, Request, Site, nothing_listens

MODEL = random.Random(2).randbytes(400_000)
WHEEL, BODY = make_wheel("tiny-model", {"tiny_model/tiny.gguf": MODEL})
INDEX = "https://index.invalid/simple"
PART = Part("tiny-model", "1.0", "tiny_model/tiny.gguf")
EXPECTED = http.Expected(hashlib.sha256(BODY).hexdigest(), len(BODY))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "SSL_", "REQUESTS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def index() -> Index:
    return Index({WHEEL: BODY})


@pytest.fixture
def site(index: Index) -> Iterator[Site]:
    with Site(index.answer) as site:
        yield site


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("json_pages", [True, False])
def test_json_and_html_pages(index: Index, site: Site, tmp_path: Path, json_pages: bool) -> None:
    index.json_pages = json_pages
    heard = Heard()
    path = simple_index.download([f"{site.url}/simple"], PART, tmp_path, heard)
    assert path == tmp_path / WHEEL
    assert path.read_bytes() == BODY
    assert heard.nbytes == len(BODY)
    assert names(tmp_path) == [WHEEL]


def test_first_index_that_has_it(index: Index, site: Site, tmp_path: Path) -> None:
    with nothing_listens() as nowhere, Site(lambda _: Reply(status=404)) as empty:
        urls = [f"{nowhere}/simple", f"{empty.url}/simple", f"{site.url}/simple/"]
        assert simple_index.download(urls, PART, tmp_path, Heard()).read_bytes() == BODY
        with pytest.raises(NetworkError, match="cannot be reached"):
            simple_index.download(urls[:2], PART, tmp_path, Heard())
        with pytest.raises(ModelNotFound, match=r"no index has tiny-model 1\.0"):
            simple_index.download(urls[1:2], PART, tmp_path, Heard())
    with pytest.raises(NetworkError, match="PIP_INDEX_URL"):
        simple_index.download([], PART, tmp_path, Heard())


def test_only_wheels_for_every_machine(index: Index, site: Site, tmp_path: Path) -> None:
    index.wheels = {
        "tiny_model-1.0-cp311-cp311-linux_x86_64.whl": b"",
        "tiny_model-1.0.1-py3-none-any.whl": b"",
        "tiny_model-1.0.tar.gz": b"",
        "other-1.0-py3-none-any.whl": b"",
    }
    with pytest.raises(ModelNotFound):
        simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())


@pytest.mark.parametrize("ranges", [True, False])
def test_resume_in_one_run_and_in_the_next(index: Index, site: Site, tmp_path: Path, ranges: bool) -> None:
    part = tmp_path / f"{WHEEL}.part"
    part.write_bytes(BODY[:50_000])  # what an interrupted run left
    index.replies[WHEEL] = [Reply(BODY, cut=100_000, ranges=ranges), Reply(BODY, ranges=ranges)]
    heard = Heard()
    http.download(f"{site.url}/files/{WHEEL}", part, EXPECTED, heard, origin=INDEX)
    assert part.read_bytes() == BODY
    assert heard.nbytes == len(BODY)
    asked = [request.headers.get("range") for request in site.seen("GET", WHEEL)]
    assert asked == ["bytes=50000-", f"bytes={150_000 if ranges else 100_000}-"]


def test_half_of_another_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    part.write_bytes(b"x" * 1000)
    http.download(f"{site.url}/files/{WHEEL}", part, EXPECTED, Heard(), origin=INDEX)
    assert part.read_bytes() == BODY
    part.write_bytes(b"x" * (len(BODY) + 5))  # longer than the file: the server answers 416
    http.download(
        f"{site.url}/files/{WHEEL}", part, http.Expected(EXPECTED.sha256, None), Heard(), origin=INDEX
    )
    assert part.read_bytes() == BODY


def test_wrong_hash(index: Index, site: Site, tmp_path: Path) -> None:
    index.wrong_hash = True
    with pytest.raises(IntegrityError, match="SHA-256"):
        simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())
    assert not names(tmp_path)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(BODY + b"more"),
        Reply(BODY[:-1]),
        Reply(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}),
        Reply(BODY, status=206, headers={"Content-Range": "bytes 7-9/10"}),
    ],
    ids=["longer", "shorter", "gzip", "another range"],
)
def test_replies_that_are_not_the_file(index: Index, site: Site, tmp_path: Path, reply: Reply) -> None:
    index.replies[WHEEL] = [reply]
    with pytest.raises(IntegrityError):
        http.download(f"{site.url}/files/{WHEEL}", tmp_path / "a.part", EXPECTED, Heard(), origin=INDEX)
    assert not names(tmp_path)


def test_endless_body(tmp_path: Path) -> None:
    flood = Reply(bytes(8_000_000), headers={"Transfer-Encoding": "x", "Content-Length": ""})
    with Site(lambda _: flood) as site, pytest.raises(IntegrityError, match="longer"):
        http.download(f"{site.url}/files/{WHEEL}", tmp_path / "a.part", EXPECTED, Heard(), origin=INDEX)


def test_server_that_always_breaks_off(index: Index, site: Site, tmp_path: Path) -> None:
    index.replies[WHEEL] = [Reply(BODY, cut=0) for _ in range(10)]
    part = tmp_path / "a.part"
    part.write_bytes(BODY[:1000])
    with pytest.raises(NetworkError, match="broke off"):
        http.download(f"{site.url}/files/{WHEEL}", part, EXPECTED, Heard(), origin=INDEX)
    assert part.read_bytes() == BODY[:1000]  # kept: the next call goes on from there


def test_claimed_size_beyond_the_disk(site: Site, tmp_path: Path) -> None:
    with Site(lambda _: Reply(b"x", length=2**49)) as huge, pytest.raises(StorageError, match=str(2**49)):
        http.download(
            f"{huge.url}/files/{WHEEL}", tmp_path / "a.part", http.Expected(None, None), Heard(), origin=INDEX
        )
    assert not names(tmp_path)


def test_page_too_large_or_no_page_at_all(index: Index, site: Site, tmp_path: Path) -> None:
    bodies = {
        "application/vnd.pypi.simple.v1+json": [
            b"{",
            b"[]",
            b'{"files": 3}',
            b'{"files": [3, {"url": 4}]}',
            b"[" * 100_000,
        ],
        "text/html": [bytes(33 * 2**20), b"\xff<a href", b"<a>" * 1000],
    }
    for media_type, pages in bodies.items():
        for page in pages:
            index.every_reply = Reply(page, headers={"Content-Type": media_type})
            with pytest.raises(BoliError):
                simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())
    index.every_reply = Reply(status=503)
    with pytest.raises(NetworkError, match="503"):
        simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())


def test_redirects_are_counted(tmp_path: Path) -> None:
    with Site(lambda request: Reply(status=302, headers={"Location": request.path + "x"})) as site:
        with pytest.raises(NetworkError, match="redirects more than"):
            simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())
        assert len(site.requests) == 6


@pytest.mark.parametrize(
    "target", ["http://example.invalid/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"]
)
def test_redirects_that_lead_astray(tmp_path: Path, target: str) -> None:
    astray = Reply(status=302, headers={"Location": target})
    with Site(lambda _: astray) as site, pytest.raises(NetworkError, match="not fetched"):
        simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())


def test_links_that_lead_astray(index: Index, site: Site, tmp_path: Path) -> None:
    for place in ("http://example.invalid/files", "file:///etc"):
        index.files_at = place
        with pytest.raises(NetworkError, match="not fetched"):
            simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())
    assert not names(tmp_path)


def test_credentials_stay_with_their_host(index: Index, site: Site, tmp_path: Path) -> None:
    index.credentials = "Basic " + base64.b64encode(b"me:ca@nary").decode()
    secret = f"http://me:ca%40nary@127.0.0.1:{site.port}/simple"
    with pytest.raises(NetworkError, match="401"):
        simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard())
    assert simple_index.download([secret], PART, tmp_path, Heard()).read_bytes() == BODY
    index.files_at = f"{site.other_host}/elsewhere"
    assert simple_index.download([secret], PART, tmp_path, Heard()).read_bytes() == BODY
    assert site.seen("GET", "/elsewhere/")
    assert not any("authorization" in request.headers for request in site.seen("GET", "/elsewhere/"))
    index.credentials = "Basic other"
    with pytest.raises(NetworkError) as caught:
        simple_index.download([secret], PART, tmp_path, Heard())
    assert "nary" not in str(caught.value)


def test_redirect_to_another_host_carries_no_credentials(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        if request.path.startswith("/moved/"):
            return Reply(b"<html></html>", headers={"Content-Type": "text/html"})
        return Reply(status=302, headers={"Location": f"{here.other_host}/moved/"})

    with Site(answer) as here, pytest.raises(ModelNotFound):
        simple_index.download([f"http://me:canary@127.0.0.1:{here.port}/simple"], PART, tmp_path, Heard())
    assert "authorization" in here.requests[0].headers
    assert "authorization" not in here.requests[1].headers


def test_settings_of_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert simple_index.uv_indexes() == []
    settings = tmp_path / "config" / "uv" / "uv.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('index-url = "https://a.invalid/simple"')
    assert simple_index.uv_indexes() == ["https://a.invalid/simple"]
    settings.write_text(
        '[[index]]\nurl="https://b.invalid/s"\n[[index]]\nurl="https://c.invalid/s"\ndefault=true'
    )
    assert simple_index.uv_indexes() == ["https://b.invalid/s", "https://c.invalid/s"]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "mirror=https://d.invalid/s?a=b")
    assert simple_index.uv_indexes() == ["https://b.invalid/s", "https://d.invalid/s?a=b"]
    monkeypatch.setenv("UV_INDEX", "first=https://e.invalid/s https://f.invalid/s?x=y")
    assert simple_index.uv_indexes() == [
        "https://e.invalid/s",
        "https://f.invalid/s?x=y",
        "https://d.invalid/s?a=b",
    ]
    settings.write_text("= no toml")
    assert len(simple_index.uv_indexes()) == 3


def test_settings_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert simple_index.pip_indexes() == []
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://a.invalid/s\nextra-index-url =\n  file:///b\n  https://c.invalid/s\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    assert simple_index.pip_indexes()[0] == "https://a.invalid/s"
    assert simple_index.pip_indexes()[-1] == "https://c.invalid/s"
    monkeypatch.setenv("PIP_INDEX_URL", "https://d.invalid/s")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://e.invalid/s")
    assert simple_index.pip_indexes() == ["https://d.invalid/s", "https://e.invalid/s"]


def test_interrupt_keeps_what_came_for_the_next_time(index: Index, site: Site, tmp_path: Path) -> None:
    """Ctrl-C in the middle: nothing under a final name, and the next call goes on where this one stopped."""
    index.replies[WHEEL] = [Reply(BODY, slow=0.05)]

    class Impatient(Heard):
        def advance(self, bytes: int) -> None:
            super().advance(bytes)
            if self.nbytes > 100_000:
                signal.raise_signal(signal.SIGINT)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        simple_index.download([f"{site.url}/simple"], PART, tmp_path, Impatient())
    assert time.monotonic() - started < 5
    assert names(tmp_path) == [f"{WHEEL}.part"]
    kept = (tmp_path / f"{WHEEL}.part").stat().st_size
    assert kept > 0
    assert simple_index.download([f"{site.url}/simple"], PART, tmp_path, Heard()).read_bytes() == BODY
    assert site.seen("GET", WHEEL)[-1].headers["range"] == f"bytes={kept}-"
