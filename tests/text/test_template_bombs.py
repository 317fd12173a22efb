"""Templates that would run for ever or take all memory: they end, and the next one is served."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boli.errors import TemplateError
from boli.text.sandbox import Sandbox

USER: dict[str, object] = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def impatient() -> Iterator[Sandbox]:
    """One for many hostile templates, so that little is waited for."""
    made = Sandbox(render_seconds=0.7)
    yield made
    made.close()


def worker(sandbox: Sandbox) -> subprocess.Popen[bytes]:
    assert sandbox._worker is not None
    return sandbox._worker


BOMBS = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{% set x = 'a' * 2**28 %}{{ x|length }}",
    "{{ ['a' * 1000] * 10**8 }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'x'.ljust(10**10) }}{{ 'x'.center(10**10) }}{{ 'x'.zfill(10**10) }}",
    "{{ (['a'] * 10**7) | join('a' * 100) }}",
    "{{ 'ab'.join(['x' * 9999] * 99999) }}",
    "{{ 9 ** (9 ** (9 ** 9)) }}",
    "{{ (10 ** 50000000) * (10 ** 50000000) }}",
    "{{ 1 << 10**12 }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    "{{ 'x' | indent(10**10) }}",
    "{{ lipsum(n=10**6) }}",
    "{{ messages | tojson(indent=10**10) }}",
    "{{ strftime_now('%Y' * 10**7) }}{{ strftime_now('%99999999Y' * 999) }}",
    "{% set x %}{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}{% endset %}",
    "{{ ('a' * 50000) | wordwrap(1) | replace('a', 'b' * 50000) }}",
    "{{ range(99999) | map('string') | join | wordwrap | urlize | length * 'a' * 999 }}",
    "{% for i in range(99999) %}{{ range(99999) | batch(1) | list | pprint }}{% endfor %}",
    "(" * 3 + "{{ " + "(" * 90_000 + "1" + ")" * 90_000 + " }}",
    "{{ " + "-" * 200_000 + "1 }}",
    "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "{{ " + "[" * 50_000 + "]" * 50_000 + " }}",
    "{{ x" + ".a" * 200_000 + " }}",
    "{{ 'a" + "a" * 900_000 + "' * 999 }}",
]


def peak_memory(pid: int) -> int:
    """The most memory that a process has had resident, in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), default=0)


def watch(pid: int, peaks: list[int], done: threading.Event) -> None:
    while not done.is_set():
        peaks.append(peak_memory(pid))
        time.sleep(0.005)


@pytest.mark.parametrize("source", BOMBS, ids=lambda source: source[:60])
def test_bombs_fail_in_time_and_memory(source: str, impatient: Sandbox) -> None:
    impatient.render("ready", [USER])
    peaks = [0]
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(worker(impatient).pid, peaks, done))
    watcher.start()
    start = time.monotonic()
    try:
        with pytest.raises(TemplateError) as error:
            impatient.render(source, [USER])
    finally:
        done.set()
        watcher.join()
    assert time.monotonic() - start < 5
    assert max(peaks) < 100 << 20
    assert error.value.remedy
    # The next template, a sound one, is served as if nothing had been.
    assert impatient.render("still {{ messages[0].content }}", [USER]) == ["still x"]


def test_the_time_limit_that_users_have() -> None:
    sandbox = Sandbox()
    sandbox.render("ready", [USER])
    start = time.monotonic()
    with pytest.raises(TemplateError, match="takes too long"):
        sandbox.render(BOMBS[1], [USER])
    assert 1 < time.monotonic() - start < 5
    sandbox.close()
