"""Hostile templates reach nothing; the process that renders them starts, serves and ends as it should."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boli.errors import TemplateError
from boli.text.sandbox import Sandbox, shared_sandbox
from text.folders import byte_level_folder

USER: dict[str, object] = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Sandbox]:
    """One for many hostile templates, so that little time is spent on starting."""
    made = Sandbox(render_seconds=0.7)
    yield made
    made.close()


def worker(sandbox: Sandbox) -> subprocess.Popen[bytes]:
    assert sandbox._worker is not None
    return sandbox._worker


# Each would write the canary, or show a class, a module or a builtin, if it worked.
REACH = [
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ messages|attr('__class__') }}",
    "{{ ''['__class__'] }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('{0.__cl' ~ 'ass__}')|format('') }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ 'x'.join(['{0.__class__}']).format(1) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__.sys.modules }}",
    "{{ strftime_now.__func__ }}",
    "{{ dict.__class__ }}{{ dict.mro() }}",
    "{{ namespace(__class__=1) }}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "{% set n = namespace() %}{{ n.__init__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'content': 1}) }}",
    "{{ messages[0].__setitem__('a', 1) }}",
    "{{ (messages|map('attr', '__class__'))|list }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|groupby('__class__') }}",
    "{% import 'os' as os %}{{ os }}",
    "{% include '/etc/passwd' %}",
    "{{ config }}{{ request.application.__globals__ }}",
    "{{ caller.__globals__ }}{{ varargs.__class__ }}",
    "{% macro m() %}{{ m.__class__ }}{{ m._func.__globals__ }}{% endmacro %}{{ m() }}",
    "{{ loop.__class__ }}{% for i in [1] %}{{ loop._iterable.__class__ }}{% endfor %}",
    "{{ ().__class__.__bases__ }}{{ (1).__class__ }}{{ true.__class__ }}",
    "{{ range.__class__ }}{{ range.__self__ }}",
    "{{ tojson.__globals__ }}{{ 'a'|tojson|attr('__class__') }}",
    "{{ [1]|map('format')|list }}{{ ['{.__class__}']|map('format', 1)|list }}",
    "{% trans %}{% endtrans %}",
    "{% do messages.append(1) %}",
    "{{ (messages|first).items().__iter__().__class__ }}",
    "{% for x in messages %}{{ x.values.__self__.__class__ }}{% endfor %}",
    "{{ messages.gi_frame }}{{ (messages|map('upper')).gi_frame.f_globals }}",
]


@pytest.mark.parametrize("source", REACH)
def test_templates_reach_nothing(source: str, tmp_path: Path, impatient: Sandbox) -> None:
    canary = tmp_path / "canary"
    try:
        (text,) = impatient.render(source.replace("CANARY", str(canary)), [USER])
    except TemplateError:
        text = ""
    assert text is not None
    assert not canary.exists()
    assert not any(word in text for word in ("<class", "<built-in", "<module", "<function", "os.", "root:"))


def test_all_carriers_share_the_sandbox(tmp_path: Path) -> None:
    from boli.text import load_tokenizer
    from text.vocabularies import Metadata, byte_level_metadata

    payload = REACH[0].replace("CANARY", str(tmp_path / "canary"))
    in_config = byte_level_folder(tmp_path / "a", chat_template=payload)
    in_file = byte_level_folder(tmp_path / "b")
    (in_file / "chat_template.jinja").write_text(payload)
    in_gguf = Metadata({**byte_level_metadata(), "tokenizer.chat_template": payload})
    for source in (in_config, in_file, in_gguf):
        with pytest.raises(TemplateError):
            load_tokenizer(source).require_chat_template().render([{"role": "user", "content": "x"}])
    assert not (tmp_path / "canary").exists()


def test_bombs_are_not_compiled_in_this_process() -> None:
    # Jinja computes constants when it compiles: only the worker may do so.
    code = (
        "import sys; from boli.text import ChatTemplate; t = ChatTemplate('{{ messages[0].role }}');"
        "print(t.render([{'role': 'user'}]), 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["user", "False"]
    assert done.stderr == ""


def test_the_worker_is_started_once_and_kept(sandbox: Sandbox) -> None:
    sandbox.start()
    first = worker(sandbox).pid
    assert sandbox.render("a", [USER]) == ["a"]
    assert sandbox.render("b", [USER, USER]) == ["b", "b"]
    assert worker(sandbox).pid == first
    start = time.monotonic()
    for _ in range(50):
        sandbox.render("{{ messages[0].content }}", [USER])
    assert time.monotonic() - start < 2


def test_the_worker_has_nothing_to_give_away(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sandbox.render("x", [USER])
    environment = Path(f"/proc/{worker(sandbox).pid}/environ").read_bytes()
    assert b"secret" not in environment
    limits = Path(f"/proc/{worker(sandbox).pid}/limits").read_text()
    assert [line.split()[3] for line in limits.splitlines() if line.startswith("Max file size")] == ["0"]


def test_a_worker_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    sandbox.render("x", [USER])
    os.kill(worker(sandbox).pid, signal.SIGKILL)
    worker(sandbox).wait()
    assert sandbox.render("y", [USER]) == ["y"]


def test_a_worker_that_stops_answering_is_given_up() -> None:
    sandbox = Sandbox(render_seconds=0.3)
    sandbox.render("x", [USER])
    os.kill(worker(sandbox).pid, signal.SIGSTOP)
    with pytest.raises(TemplateError, match="too long"):
        sandbox.render("{{ messages }}" + " " * 900_000, [USER])  # more than a pipe holds
    assert sandbox.render("y", [USER]) == ["y"]
    sandbox.close()


def test_threads_take_turns(sandbox: Sandbox) -> None:
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(30):
            if sandbox.render("{{ name * 200 }}", [{"name": name}]) != [name * 200]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def render_in_child(connection: object) -> None:
    text = shared_sandbox().render("child {{ messages[0].content }}", [USER])
    connection.send(text)  # type: ignore[attr-defined]
    shared_sandbox().close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_worker_of_its_own() -> None:
    assert shared_sandbox().render("x", [USER]) == ["x"]
    parent = worker(shared_sandbox()).pid
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=render_in_child, args=(there,))
    child.start()
    assert here.poll(20)
    assert here.recv() == ["child x"]
    child.join()
    assert shared_sandbox().render("y", [USER]) == ["y"]
    assert worker(shared_sandbox()).pid == parent


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_worker_ends_with_its_parent(how: signal.Signals | None) -> None:
    code = (
        "import sys; from boli.text.sandbox import shared_sandbox as s;"
        "s().render('x', [{}]); print(s()._worker.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        if how is None:
            parent.stdin.close()
        else:
            parent.send_signal(how)
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def test_a_bomb_ends_after_its_parent() -> None:
    code = (
        "import sys, threading; from boli.text.sandbox import Sandbox; s = Sandbox(render_seconds=60);"
        "s.render('x', [{}]); print(s._worker.pid, flush=True);"
        "s.render('{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}', [{}])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_interrupts_leave_a_usable_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.render("x", [USER])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sandbox.render("y", [USER])
    assert sandbox.render("z", [USER]) == ["z"]


def test_ctrl_c_in_the_terminal_is_not_for_the_worker(sandbox: Sandbox) -> None:
    sandbox.render("x", [USER])
    assert os.getsid(worker(sandbox).pid) == worker(sandbox).pid != os.getsid(0)


def test_a_python_that_does_not_start_is_named(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TemplateError, match="cannot start"):
        sandbox.render("x", [USER])
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(TemplateError, match="did not start"):
        sandbox.render("x", [USER])
