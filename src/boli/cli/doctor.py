"""`boli doctor`: what this machine has, and what is missing for which extra."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import typer

from boli import __version__
from boli.cli.arguments import Json
from boli.cli.table import Column, print_facts, print_table, print_text
from boli.cli.terminal import human_bytes, print_json
from boli.errors import install

HELP = """Say what this machine has and what is missing.

Processor features that matter for speed, the cores and the memory that this process may use, the
cache of compiled kernels, packages, and what each extra lacks. Nothing is changed or fetched.

\b
Examples:
  boli doctor
  boli doctor --json
"""

_FEATURES = {
    "x86": (
        "avx2", "fma", "f16c", "avxvnni",
        "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-int8", "amx-bf16",
    ),
    "arm": ("neon", "dotprod", "i8mm", "bf16", "sve", "sve2"),
}  # fmt: skip

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?\s*([^;]*?)\s*(?:;\s*(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


class _Cpu(TypedDict):
    name: str
    architecture: str
    usable_cores: int
    features: dict[str, bool]
    dot_products: str
    bf16_products: str
    tile_registers: bool
    compiled_for: str
    instruction_sets: list[str]


class _Memory(TypedDict):
    total_bytes: int | None
    available_bytes: int | None


class _KernelCache(TypedDict):
    path: str
    files: int
    bytes: int


class _Findings(TypedDict):
    """The JSON document."""

    boli: str
    python: str
    executable: str
    system: str
    cpu: _Cpu
    memory: _Memory
    kernel_cache: _KernelCache
    packages: dict[str, str | None]
    extras: dict[str, dict[str, list[str]]]


application = typer.Typer(add_completion=False, rich_markup_mode=None)


@application.command(help=HELP)
def doctor(json: Json = False) -> None:
    """Looks at the machine and prints what it finds."""
    findings = _examine()
    if json:
        print_json(findings)
    else:
        _print(findings)


def _examine() -> _Findings:
    from boli import machine  # noqa: PLC0415
    from boli.cpu import target  # noqa: PLC0415

    kind = "arm" if platform.machine().lower() in {"aarch64", "arm64"} else "x86"
    present = machine.cpu_features()
    total, available = machine.memory_total(), machine.memory_available()
    packages, extras = _packages()
    return {
        "boli": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cpu": {
            "name": machine.cpu_name(),
            "architecture": platform.machine(),
            "usable_cores": machine.usable_cores(),
            "features": {name: name in present for name in _FEATURES[kind]},
            "dot_products": target.dot_form(),
            "bf16_products": target.bf16_form(),
            "tile_registers": target.tile_registers(),
            "compiled_for": target.cpu(),
            "instruction_sets": sorted(name for name, used in target.features().items() if used),
        },
        "memory": {
            "total_bytes": None if total == machine.UNKNOWN_MEMORY else total,
            "available_bytes": None if available == machine.UNKNOWN_MEMORY else available,
        },
        "kernel_cache": _kernel_cache(machine.cache_dir() / "kernels"),
        "packages": packages,
        "extras": extras,
    }


def _kernel_cache(folder: Path) -> _KernelCache:
    """How much compiled code is kept, and where."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {"path": str(folder), "files": len(sizes), "bytes": sum(sizes)}


def _packages() -> tuple[dict[str, str | None], dict[str, dict[str, list[str]]]]:
    """Installed versions of what boli needs, and what each extra lacks (missing or too old)."""
    core: dict[str, str | None] = {}
    lacking: dict[str, list[str]] = {}
    includes: dict[str, list[str]] = {}
    for line in metadata.requires("boli") or ():
        match = _REQUIREMENT.fullmatch(line)
        if match is None:
            continue
        name, extras, versions, marker = match.groups()
        extra = _EXTRA.search(marker or "")
        if extra is None:
            core[name] = _installed(name)
        elif name == "boli":  # an extra that includes others: boli[hub]
            includes.setdefault(extra[1], []).extend(part.strip() for part in (extras or "").split(","))
        else:
            missing = lacking.setdefault(extra[1], [])
            if not _satisfied(name, versions):
                missing.append(name + versions)
    for including, included in includes.items():
        for part in included:
            lacking.setdefault(including, []).extend(lacking.get(part, []))
    return core, {name: {"missing": missing} for name, missing in sorted(lacking.items())}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _satisfied(name: str, versions: str) -> bool:
    """Whether a package is there, and not older than the `>=` of its requirement."""
    version = _installed(name)
    lowest = re.search(r">=\s*([0-9][^,\s]*)", versions)
    if version is None or lowest is None:
        return version is not None
    return _release(version) >= _release(lowest[1])


def _release(version: str) -> tuple[int, ...]:
    """The first four numbers of a version, without what follows them: `2.13.0+cpu` is (2, 13, 0, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    return tuple([*numbers, 0, 0, 0, 0][:4])


def _print(findings: _Findings) -> None:
    cpu, memory, cache = findings["cpu"], findings["memory"], findings["kernel_cache"]
    features = cpu["features"]
    has = [name for name, present in features.items() if present]
    lacks = [name for name, present in features.items() if not present]
    total, available = (
        "unknown" if count is None else human_bytes(count)
        for count in (memory["total_bytes"], memory["available_bytes"])
    )
    kept = f"{cache['files']} files, {human_bytes(cache['bytes'])}" if cache["files"] else "empty"
    print_facts(
        [
            ("boli", findings["boli"]),
            ("Python", f"{findings['python']}  {findings['executable']}"),
            ("system", findings["system"]),
            ("processor", f"{cpu['name']} ({cpu['architecture']})"),
            ("  has", " ".join(has) or "-"),
            ("  lacks", " ".join(lacks) or "-"),
            (
                "  used",
                f"{cpu['dot_products']} for products of integers, "
                f"{'AMX' if cpu['tile_registers'] else cpu['bf16_products']} for bfloat16",
            ),
            ("kernels for", f"{cpu['compiled_for']}, {len(cpu['instruction_sets'])} instruction sets in use"),
            ("cores", f"{cpu['usable_cores']} usable"),
            ("memory", f"{available} available of {total}"),
            ("kernels", f"{kept}  {cache['path']}"),
        ]
    )
    sys.stdout.write("\n")
    packages = [[name, version or "missing"] for name, version in findings["packages"].items()]
    print_table([Column("package"), Column("version")], packages)
    sys.stdout.write("\n")
    extras = [
        [f"[{name}]", "missing: " + ", ".join(extra["missing"]) if extra["missing"] else "complete"]
        for name, extra in findings["extras"].items()
    ]
    print_table([Column("extra"), Column("state")], extras)
    incomplete = [name for name, extra in findings["extras"].items() if extra["missing"]]
    if incomplete:
        sys.stdout.write("\n")
        print_text(f"To complete one, {install(incomplete[0])}")
