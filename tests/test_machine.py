"""What the machine has, read from folders laid out like the kernel's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boli import machine
from boli.errors import StorageError

MIB = 2**20


def lay_out(root: Path, files: dict[str, str]) -> Path:
    """Writes small files below `root`, as /proc and /sys hold them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    return lay_out(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": ""})


def test_the_real_machine_gives_plausible_answers() -> None:
    assert machine.cpu_name().strip()
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    assert 2**26 < machine.memory_available() <= machine.memory_total() < 2**50
    features = machine.cpu_features()
    assert features
    assert all(name == name.lower() for name in features)


def test_cores_are_those_of_the_affinity_mask() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity masks on this system")
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from boli.machine import usable_cores; print(usable_cores())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "1\n"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 4),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("800000 100000", 4),
        ("", 4),
    ],
)
def test_cores_are_cut_by_the_quota_of_cgroup_v2(
    root: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    lay_out(root, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    assert machine.usable_cores() == cores


def test_the_tightest_cgroup_on_the_way_up_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    files = {
        "proc/self/cgroup": "0::/user/job\n",
        "sys/fs/cgroup/user/job/cpu.max": "600000 100000",
        "sys/fs/cgroup/user/cpu.max": "300000 100000",
    }
    lay_out(root, files)
    assert machine.usable_cores() == 3


def test_cores_are_cut_by_the_quota_of_cgroup_v1(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    files = {
        # The container sees its host's path, which is not there: the top of the tree is its own.
        "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    lay_out(root, files)
    assert machine.usable_cores() == 2
    lay_out(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"})
    assert machine.usable_cores() == 8


def test_memory_is_what_the_system_says(root: Path) -> None:
    assert machine.memory_total() == 16 * MIB
    assert machine.memory_available() == 8 * MIB


def test_memory_is_cut_by_cgroup_v2_and_page_cache_counts_as_free(root: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": f"{6 * MIB}\n",
        "sys/fs/cgroup/job/memory.current": f"{5 * MIB}\n",
        "sys/fs/cgroup/job/memory.stat": f"anon {MIB}\nactive_file {MIB}\ninactive_file {2 * MIB}\n",
    }
    lay_out(root, files)
    assert machine.memory_total() == 6 * MIB
    assert machine.memory_available() == (6 - 5 + 3) * MIB
    lay_out(root, {"sys/fs/cgroup/job/memory.max": "max\n"})
    assert machine.memory_total() == 16 * MIB
    assert machine.memory_available() == 8 * MIB


def test_memory_is_cut_by_cgroup_v1(root: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * MIB}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{9 * MIB}\n",
        "sys/fs/cgroup/memory/job/memory.stat": "active_file 0\ntotal_inactive_file 0\nbroken\n",
    }
    lay_out(root, files)
    assert machine.memory_total() == 4 * MIB
    assert machine.memory_available() == 0
    # No limit is written as a huge number there.
    lay_out(root, {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n"})
    assert machine.memory_total() == 16 * MIB


def test_a_cgroup_outside_the_namespace_does_not_lead_out_of_the_tree(root: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../../other\n",
        "sys/fs/cgroup/memory.max": f"{2 * MIB}\n",
        "sys/fs/cgroup/memory.current": "0\n",
        "other/memory.max": "1\n",
        "other/memory.current": "0\n",
    }
    lay_out(root, files)
    assert machine.memory_total() == 2 * MIB


def test_without_proc_the_physical_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory_total() == machine.memory_available() == physical
    assert machine.cpu_name()


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_dir() == tmp_path / "boli"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", "linux")
    for useless in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert machine.cache_dir() == tmp_path / "home/.cache/boli"


def test_the_cache_on_other_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.cache_dir() == tmp_path / "Library/Caches/boli"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine.cache_dir() == tmp_path / "Local/boli/Cache"


def test_no_home_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StorageError) as caught:
        machine.cache_dir()
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_it_is_cheap_to_import() -> None:
    code = "import sys, boli.machine; print([m for m in ('numpy', 'numba', 'llvmlite') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
