"""Run `boli.sources` in a process of its own, with an environment of its own, and hear what it did.

The libraries of the hubs read their environment when they are imported, and pip is a process anyway: so these
tests set the variables that a user would set, and nothing is patched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boli

_BYTECODE = (
    Path(tempfile.gettempdir()) / f"boli-tests-bytecode-{os.getuid()}"
)  # saves a second in each process
_SCRIPT = """
import json, os, sys
if limit := os.environ.get("TEST_FILE_LIMIT"):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
from boli import sources
from boli.errors import BoliError

class Record:
    def __init__(self):
        self.started, self.bytes, self.finished, self.notices = [], 0, 0, []
    def start(self, label, total_bytes):
        self.started.append([label, total_bytes])
    def advance(self, bytes):
        self.bytes += bytes
    def finish(self):
        self.finished += 1
    def notice(self, text):
        self.notices.append(text)

for line in sys.stdin:
    what, arguments, keywords = json.loads(line)
    progress = Record()
    if what == "resolve":
        keywords["progress"] = progress
    try:
        result = getattr(sources, what)(*arguments, **keywords)
        if what == "resolve":
            result = [result.name, str(result.path), result.source]
        elif what == "installed":
            result = [[model.name, str(model.path), model.source, model.nbytes] for model in result]
        answer = {"result": result}
    except BoliError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer | {"progress": vars(progress)}), flush=True)
"""


@dataclass
class Answer:
    result: Any
    error: str
    text: str
    started: list[tuple[str, int | None]]
    nbytes: int
    finished: int
    notices: list[str]

    @property
    def path(self) -> Path:
        assert not self.error, self.text
        return Path(self.result[1])


class Home:
    """A user with an empty home, whose caches, settings and indexes are those given and no others."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        folder.mkdir(exist_ok=True)
        ours = ("PIP_", "UV_", "HF_", "HUGGING", "MODELSCOPE_", "XDG_", "TQDM_")
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(ours)
            and key != "PYTHONDONTWRITEBYTECODE"
            and not key.lower().endswith("_proxy")
        }
        self.environment = inherited | {
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(self.cache),
            "MODELSCOPE_HOME": str(folder / "modelscope"),
            "MODELSCOPE_CACHE": str(self.cache / "modelscope"),
            "PIP_CONFIG_FILE": os.devnull,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPYCACHEPREFIX": str(_BYTECODE),
            **environment,
        }

    def start(
        self, *calls: tuple[str, str] | str, python: str = sys.executable, **keywords: Any
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [python, "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.folder,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        for call in calls:
            what, *arguments = [call] if isinstance(call, str) else call
            process.stdin.write(json.dumps([what, arguments, keywords]) + "\n")
        process.stdin.close()
        process.stdin = None
        return process

    def run(
        self, *calls: tuple[str, str] | str, python: str = sys.executable, **keywords: Any
    ) -> list[Answer]:
        """Make the calls (`("resolve", name)`, `"installed"`, …) one after the other in one process."""
        process = self.start(*calls, python=python, **keywords)
        return answers(process)

    def resolve(self, model: str, **keywords: Any) -> Answer:
        return self.run(("resolve", model), **keywords)[0]


def bare_python(folder: Path) -> str:
    """The interpreter of a new environment that has boli's own modules and nothing else, not even pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    python = folder / "bare" / "bin" / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", show], check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "boli").symlink_to(Path(boli.__file__).parent)
    return str(python)


def answers(process: subprocess.Popen[str]) -> list[Answer]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = []
    for line in out.splitlines():
        data = json.loads(line)
        told = data["progress"]
        started = [(label, total) for label, total in told["started"]]
        found.append(
            Answer(
                data.get("result"),
                data.get("error", ""),
                data.get("text", ""),
                started,
                told["bytes"],
                told["finished"],
                told["notices"],
            )
        )
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def interrupt(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    """Press Ctrl-C once the condition holds. The process must end by it, soon, and have no answer."""
    wait_until(when)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out) == (-signal.SIGINT, "")


def files_below(folder: Path) -> list[str]:
    """Files that are not just locks, as relative paths."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    )
