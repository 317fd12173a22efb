"""What `serve.py` found, as lines for the terminal and as SERVE.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Found = dict[str, Any]

_HEAD = """# The server under load

Written by `python benchmarks/serve.py --render` from what `python benchmarks/serve.py --json` measured; no
number here was typed. Servers took turns on the same machine with the same threads and file; the client
shared the processors with them. Numbers are medians of the turns, in brackets the least and the most.
llama-server had a slot for each stream, and flash attention where that was faster. Times count from when a
request was due.
"""


def lines(name: str, found: Found) -> list[str]:
    """A trial for the terminal."""
    if "error" in found:
        return [f"{name}: not measured: {found['error']}"]
    said = [f"{name}: {found['work']}"]
    for each in found["rows"]:
        boli, peer, ratio, target, reached = _cells(each)
        against = "" if peer == "-" else f" against {peer}, {ratio}"
        said.append(f"  {each['what']}: {boli}{against}; target {target}: {reached}")
    return said


def write(document: Found, path: Path, order: list[str]) -> None:
    """Writes the tables.

    Args:
        document: What `serve.py --json` wrote.
        path: SERVE.md.
        order: The names of the trials.
    """
    where, trials = document["machine"], document["trials"]
    memory = f"{where['memory_bytes'] / 1e9:.1f} GB of memory"
    text = [
        _HEAD,
        f"Machine: {where['cpu']}, {where['cores']} cores, {memory}; {where['threads']} threads.  ",
        f"Model: {where['model']}.  ",
    ]
    text += [f"{name}: {version}.  " for name, version in document["versions"].items()]
    text += ["", "| trial | what | boli | llama-server | ratio | target | reached | date |"]
    text.append("|---|---|---|---|---|---|---|---|")
    for name in order:
        if name in trials:
            text += _rows(name, trials[name])
    text += ["", "What was done:", ""]
    text += [f"- **{name}**: {trials[name]['work']}" for name in order if name in trials]
    text += ["", *_percentiles(trials, order)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def _rows(name: str, found: Found) -> list[str]:
    if "error" in found:
        words = " ".join(str(found["error"]).replace("|", "/").split())
        return [f"| {name} | {words} | - | - | - | - | not measured | {found['date']} |"]
    return [
        "| " + " | ".join([name, each["what"], *_cells(each), found["date"]]) + " |" for each in found["rows"]
    ]


def _cells(each: Found) -> list[str]:
    """boli, llama-server, ratio, target, reached."""
    ratio = each.get("ratio")
    reached = {None: "-", True: "yes", False: "**no**"}[each["reached"]]
    peer = "-" if each["peer"] is None else _spread(each["peer"], each["unit"])
    shown = "-" if ratio is None else f"{ratio:.2f} ×"
    return [_spread(each["boli"], each["unit"]), peer, shown, each["target"], reached]


def _percentiles(trials: Found, order: list[str]) -> list[str]:
    """The last run of each kind, in milliseconds."""
    table = []
    for name in order:
        for who, runs in trials.get(name, {}).get("runs", {}).items():
            last = runs[-1] if isinstance(runs, list) and runs else runs
            if last:
                table.append(
                    f"| {name} | {who} | {last['answered']} of {last['requests']} "
                    f"| {last['output_tokens_per_s']:,.0f} | {last['goodput_per_s']:.2f} | "
                    + " | ".join(_three(last[kind]) for kind in ("ttft", "itl", "tpot", "e2e"))
                    + " |"
                )
    head = "| trial | server | requests | output tok/s | goodput/s | TTFT | ITL | TPOT | E2E |"
    rule = "|---|---|---|---|---|---|---|---|---|"
    said = "Percentiles 50 / 90 / 99 of the last turn, in milliseconds:"
    return [said, "", head, rule, *table] if table else []


def _three(found: Found) -> str:
    return " / ".join(f"{found[name] * 1e3:,.0f}" for name in ("p50", "p90", "p99")) if found["n"] else "-"


def _spread(spread: Found, unit: str) -> str:
    median, least, most = (_number(spread[key]) for key in ("median", "min", "max"))
    several = "" if least == most else f" ({least} – {most})"
    return f"{median}{several} {unit}".strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:,.3g}"
