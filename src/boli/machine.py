"""What this machine has: processor, cores, memory, and where caches go.

Containers lie less than they used to, but they still show the host's processors and memory. So the
limits of control groups (version 2 and version 1) and of the CPU affinity mask are taken into
account everywhere: what is returned is what this process may use.

Nothing here imports numpy, and nothing takes longer than reading a few small files, except
`cpu_features`, which asks LLVM (about 60 ms the first time).
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from boli.errors import StorageError

#: What `memory_total` and `memory_available` return when the system does not say.
UNKNOWN_MEMORY = sys.maxsize

_ROOT = Path("/")
_NO_LIMIT = 1 << 62  # version 1 of control groups says so with a number beyond this


def cpu_name() -> str:
    """The processor's name as its maker gives it, or its architecture if it has none."""
    if sys.platform == "darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        name = answer.stdout.strip()
    else:
        name = _field(_read(_ROOT / "proc/cpuinfo"), "model name")
    return name or platform.processor() or platform.machine() or "unknown"


@functools.cache
def cpu_features() -> frozenset[str]:
    """The instruction sets that this processor has, by LLVM's names (`avx512vnni`, `dotprod`, …)."""
    from llvmlite import binding  # noqa: PLC0415  0.06 s that only some callers need

    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


def usable_cores() -> int:
    """How many threads can really run at once: the affinity mask, cut by the cgroup's CPU quota.

    A quota of 2.5 processors counts as 2: a third thread that is put to sleep for half of each
    period would make the others wait for it. Never less than 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(_ROOT)
    if quota is not None:
        cores = min(cores, int(quota))
    return max(1, cores)


def memory_total() -> int:
    """Bytes of memory that this process could use at most: the machine's, cut by the cgroup's limit."""
    total = _meminfo(_ROOT, "MemTotal")
    if total is None:
        total = _physical_memory()
    limits = [limit for limit, _ in _memory_limits(_ROOT)]
    return min([total, *limits])


def memory_available() -> int:
    """Bytes that can be allocated now without swapping.

    Linux's own estimate (`MemAvailable`), cut by what is left below each cgroup limit. The page
    cache counts as available, because it is given up when memory is asked for. On systems that do
    not say, the physical memory.
    """
    available = _meminfo(_ROOT, "MemAvailable")
    if available is None:
        available = _physical_memory()
    left = [max(0, limit - used) for limit, used in _memory_limits(_ROOT)]
    return min([available, *left])


def cache_dir() -> Path:
    r"""The folder for boli's own caches (compiled kernels, unpacked models). It may not exist yet.

    `$XDG_CACHE_HOME/boli` if that is set to an absolute path, as the XDG specification asks; else
    `~/.cache/boli`, `~/Library/Caches/boli` on macOS, `%LOCALAPPDATA%\boli\Cache` on Windows.

    Raises:
        StorageError: There is no home folder to put it in.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured and Path(configured).is_absolute():
        return Path(configured) / "boli"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "boli" / "Cache"
    try:
        home = Path.home()
    except RuntimeError as error:
        # Not the folder for temporary files: others may write there, and compiled code is loaded
        # from this cache.
        raise StorageError(
            "there is no folder for caches",
            cause="neither XDG_CACHE_HOME nor HOME is set, and this user has no home folder",
            remedy="set XDG_CACHE_HOME to a folder that only you can write to",
        ) from error
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "boli"
    return home / ".cache" / "boli"


def _read(path: Path) -> str:
    """The text of a small file of the kernel; empty if it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, key: str) -> str:
    """The value of the first line `key : value`."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _number(text: str) -> int | None:
    """A whole number, or None for `max`, `-1`, emptiness and anything else."""
    text = text.strip()
    return int(text) if text.isdecimal() else None


def _meminfo(root: Path, key: str) -> int | None:
    """A field of /proc/meminfo, in bytes."""
    kibibytes = _number(_field(_read(root / "proc/meminfo"), key).removesuffix("kB"))
    return None if kibibytes is None else kibibytes * 1024


def _physical_memory() -> int:
    """Bytes of memory as POSIX systems tell it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY


@functools.cache
def _cgroup_folders(root: Path, controller: str) -> tuple[Path, ...]:
    """The folders whose limits hold for this process: its own cgroup's and all above it.

    They are looked for once, as memory is asked about often; their limits are read each time. A process that
    is moved to another cgroup while it runs, which hardly anybody does, keeps to the first.

    With version 1 each controller has a tree of its own; with version 2 there is one tree, named
    by an empty controller. Inside a container the path may name a folder that only the host can
    see; the folders that do not exist are passed over, and the top of the tree is always one.
    """
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        relative = Path(path.strip().lstrip("/"))
        if ".." in relative.parts:  # a process outside the namespace's root: only the top is ours
            relative = Path()
        trees = [controllers, controller] if controller else ["", "unified"]
        for tree in trees:
            top = root / "sys/fs/cgroup" / tree
            for part in (relative, *relative.parents):
                folder = top / part
                if folder.is_dir():
                    found.append(folder)
    return tuple(dict.fromkeys(found))


def _cpu_quota(root: Path) -> float | None:
    """Processors' worth of time that the tightest cgroup allows, or None."""
    quotas = []
    for folder in _cgroup_folders(root, ""):
        limit, _, period = _read(folder / "cpu.max").partition(" ")
        quotas.append((_number(limit), _number(period)))
    for folder in _cgroup_folders(root, "cpu"):
        quotas.append(
            (_number(_read(folder / "cpu.cfs_quota_us")), _number(_read(folder / "cpu.cfs_period_us")))
        )
    return min((limit / period for limit, period in quotas if limit and period), default=None)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Pairs of limit and use in bytes, one a cgroup that has a limit.

    Pages of files are left out of the use: the kernel gives them up before it refuses memory.
    """
    names = {
        "": ("memory.max", "memory.current"),
        "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }
    for controller, (limit_name, use_name) in names.items():
        for folder in _cgroup_folders(root, controller):
            limit = _number(_read(folder / limit_name))
            if limit is None or limit > _NO_LIMIT:
                continue
            use = _number(_read(folder / use_name))
            if use is None:
                continue
            statistics = dict(line.partition(" ")[::2] for line in _read(folder / "memory.stat").splitlines())
            prefix = "total_" if controller else ""  # version 1 counts children apart
            for key in ("active_file", "inactive_file"):
                use -= _number(statistics.get(prefix + key, "")) or 0
            yield limit, max(0, use)
