"""What `peers.py` found, as a line for the terminal and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Found = dict[str, Any]

_HEAD = """# Side by side with the peers

Written by `python benchmarks/peers.py --render` from what `python benchmarks/peers.py --json` measured; no
number here was typed. Engines took turns on the same machine with the same threads and, where it says so, the
same file. Numbers are medians, in brackets the least and the most. llama.cpp had flash attention where that
was faster.
"""


def line(name: str, found: Found) -> str:
    """One case in a line."""
    return f"{name}: {found['work']}: {_result(found)}; {_verdict(found)}"


def write(document: Found, path: Path, order: list[str], note: str = "") -> None:
    """Writes the table.

    Args:
        document: What `peers.py --json` wrote.
        path: The table, such as RESULTS.md.
        order: The names of the cases.
        note: What else must be known of how it was measured, or nothing.
    """
    where, cases = document["machine"], document["cases"]
    lines = [_HEAD, f"Machine: {where['cpu']}, {where['cores']} cores, "
             f"{where['memory_bytes'] / 1e9:.1f} GB of memory; {where['threads']} threads.  "]  # fmt: skip
    lines += [f"{name}: {version}.  " for name, version in document["versions"].items()]
    if where.get("without_amx"):
        lines.append("Without AMX: no engine used the tile registers that this processor has.  ")
    lines += ["", note] if note else []
    lines += ["", "| case | work | against | boli | peer | ratio | target | reached | date |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name in order:
        if name in cases:
            lines += [_row(name, cases[name], n, cells) for n, cells in enumerate(_cells(cases[name]))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, found: Found, row: int, cells: list[str]) -> str:
    return "| " + " | ".join([name, found["work"], *cells, _verdict(found, row), found["date"]]) + " |"


def _cells(found: Found) -> list[list[str]]:
    """Against whom, boli, peer, ratio, target: one row a peer."""
    kind = found["kind"]
    if kind == "speed":
        target = "-" if found["target"] is None else f"{found['target']:g} ×"
        return [
            [
                entry["rival"],
                f"{_spread(entry['boli'])} tok/s",
                f"{_spread(entry['peer'])} tok/s",
                f"{entry['ratio']:.2f} × ({entry['ratios']['min']:.2f} – {entry['ratios']['max']:.2f})",
                target,
            ]
            for entry in found["against"]
        ]
    if kind == "share":
        limit = f"{_spread(found['limit'], 1e9)} G/s"
        share = f"{found['share']:.0%} ({found['shares']['min']:.0%} – {found['shares']['max']:.0%})"
        return [[found["of"], f"{_spread(found['boli'])} tok/s", limit, share, f"{found['target']:.0%}"]]
    if kind == "quality":
        own, peer = (f"{found[who]['mean_kl']:.5f} ± {found[who]['error']:.5f}" for who in ("boli", "peer"))
        return [
            ["llama.cpp, same file", own, peer, f"{found['ratio']:.2f} ×", f"at most {found['target']:g} ×"]
        ]
    if kind == "start":
        rows = []
        for n, (what, unit, scale) in enumerate((("seconds", "s", 1.0), ("bytes", "MB", 1e6))):
            own, peer = (f"{_spread(found[what][who], scale, 2)} {unit}" for who in ("boli", "peer"))
            rows.append([what, own, peer, f"{found['ratio'][n]:.2f} ×", f"at most {found['target'][n]:g} ×"])
        return rows
    return [["-", "-", "-", found["error"].replace("|", "/"), "-"]]


def _result(found: Found) -> str:
    if found["kind"] == "failed":
        return str(found["error"])
    return "; ".join(f"{c[0]}: {c[1]} against {c[2]}, {c[3]}, target {c[4]}" for c in _cells(found))


def _verdict(found: Found, row: int | None = None) -> str:
    """Whether the target is reached: by the whole case, or by one of its rows."""
    if found["reached"] is None:
        return "-" if found["kind"] != "failed" else "not measured"
    reached = found["reached"]
    if row is not None and found["kind"] == "start":
        reached = found["ratio"][row] <= found["target"][row]
    elif row is not None and "against" in found:
        reached = found["against"][row]["ratio"] >= found["target"]
    return "yes" if reached else "**no**"


def _spread(spread: dict[str, float], scale: float = 1.0, digits: int = 1) -> str:
    median, least, most = (f"{spread[key] / scale:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({least} – {most})"
