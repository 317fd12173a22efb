"""Measures one case after the other; `cases.py` says what they are."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import models
from cases import SAME, Case, Quality, Rival, Share, Speed, Start
from engines import Engine, EngineError, whole_run

import boli
from boli.bench.texts import GLASS

PIECE, PIECES = 512, 3  # of the text on which quality is measured
PROMPT = "The capital of France is"

Found = dict[str, Any]


class Bench:
    """Runs cases.

    Args:
        pythons: The interpreter of each engine.
        repeat: How many turns.
        threads: How many threads each engine has.
        folder: Where model files are kept that are made for this.
        llama_program: The path of llama-completion or llama-cli, or None.

    Attributes:
        versions: Of each engine that was opened.
    """

    def __init__(
        self, pythons: dict[str, str], *, repeat: int, threads: int, folder: Path, llama_program: str | None
    ) -> None:
        self.pythons, self.repeat, self.threads = pythons, repeat, threads
        self.folder, self.llama_program = folder, llama_program
        self.versions: dict[str, str] = {"boli": boli.__version__}

    def run(self, case: Case) -> Found:
        """Measures one case."""
        if isinstance(case, Speed):
            return self._speed(case)
        if isinstance(case, Share):
            return self._share(case)
        return self._quality(case) if isinstance(case, Quality) else self._start(case)

    def _engine(self, stack: ExitStack, name: str) -> Engine:
        return stack.enter_context(Engine(self.pythons[name], name, self.threads))

    def _open(self, engine: Engine, path: Path, sequences: int, positions: int) -> None:
        said = engine.ask("open", path=str(path), sequences=sequences, positions=positions)
        self.versions[engine.name] = said["version"]
        if "build" in said:
            self.versions["llama build"] = said["build"]

    def _file(self, model: str, form: str) -> Path:
        path = models.source(model, self.folder)
        if form == SAME:
            return path
        return models.in_form(path, form, self.folder, self._quantize)

    def _quantize(self, path: Path, target: Path, form: str) -> None:
        with ExitStack() as stack:
            self._engine(stack, "llama").ask("quantize", source=str(path), target=str(target), form=form)

    def _speed(self, case: Speed) -> Found:
        with ExitStack() as stack:
            own = self._engine(stack, "boli")
            self._open(own, self._file(case.model, SAME), case.sequences, case.positions)
            rivals: list[tuple[Rival, Callable[[], float]]] = []
            for rival in case.rivals:
                engine = self._engine(stack, rival.engine)
                self._open(engine, self._file(case.model, rival.form), case.sequences, case.positions)
                rivals.append(
                    (rival, _better_of(engine, case) if rival.engine == "llama" else _call(engine, case))
                )
            return self._turns(case, _call(own, case), rivals)

    def _turns(
        self, case: Speed, own: Callable[[], float], rivals: list[tuple[Rival, Callable[[], float]]]
    ) -> Found:
        """A B A B: each rival's runs stand between runs of boli's."""
        own()
        pairs: dict[str, list[tuple[float, float]]] = {str(rival): [] for rival, _ in rivals}
        for number in range(self.repeat):
            for rival, measure in rivals:
                pairs[str(rival)].append((own(), measure()))
                print(
                    f"  {number + 1}/{self.repeat} {rival}: {pairs[str(rival)][-1][0]:.1f} against "
                    f"{pairs[str(rival)][-1][1]:.1f}",
                    file=sys.stderr,
                )
        against = [
            {
                "rival": name,
                "boli": _spread([ours for ours, _ in found]),
                "peer": _spread([theirs for _, theirs in found]),
                "ratio": statistics.median(ours for ours, _ in found)
                / statistics.median(theirs for _, theirs in found),
                "ratios": _spread([ours / theirs for ours, theirs in found]),
            }
            for name, found in pairs.items()
        ]
        worst = min(against, key=lambda entry: float(entry["ratio"]))  # type: ignore[arg-type]
        return {
            "kind": "speed",
            "work": case.work,
            "target": case.target,
            "ratio": worst["ratio"],
            "reached": None if case.target is None else float(worst["ratio"]) >= case.target,  # type: ignore[arg-type]
            "against": against,
        }

    def _share(self, case: Share) -> Found:
        """What boli reaches between two measurements of the machine."""
        with ExitStack() as stack:
            own = self._engine(stack, "boli")
            self._open(own, self._file(case.model, SAME), 1, case.count + 16)
            work = own.ask("work", prompt=case.count, steps=case.count)
            least = work["decode"] if case.measure == "decode" else work["prefill"]["int8"]
            measure, rates, limits = _call(own, case), [], []
            for number in range(self.repeat):
                before = own.ask("machine")[case.measure]
                rates.append(measure())
                limits.append((before + own.ask("machine")[case.measure]) / 2)
                print(f"  {number + 1}/{self.repeat} {rates[-1]:.1f} tok/s", file=sys.stderr)
        shares = [least / case.count * rate / limit for rate, limit in zip(rates, limits, strict=True)]
        share = statistics.median(shares)
        return {
            "kind": "share",
            "work": f"{case.measure} {case.count}, {case.model}",
            "of": "read bandwidth" if case.measure == "decode" else "int8 peak",
            "target": case.target,
            "share": share,
            "reached": share >= case.target,
            "shares": _spread(shares),
            "boli": _spread(rates),
            "limit": _spread(limits),
        }

    def _quality(self, case: Quality) -> Found:
        """Both engines read the same pieces of a text, each from its first position."""
        path = self._file(case.model, case.form)
        text = GLASS + (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            own, peer = self._engine(stack, "boli"), self._engine(stack, "llama")
            for engine in (own, peer):
                self._open(engine, path, 1, PIECE)
            ids = own.ask("tokens", text=text, count=PIECES * PIECE)
            files: dict[str, list[str]] = {"reference": [], "boli": [], "off": [], "on": []}
            for start in range(0, len(ids), PIECE):
                for name, paths in files.items():
                    paths.append(f"{folder}/{name}-{start}.npy")
                piece = ids[start : start + PIECE]
                own.ask("reference", ids=piece, path=files["reference"][-1])
                own.ask("logits", ids=piece, path=files["boli"][-1])
                for flash in ("off", "on"):
                    peer.ask("logits", ids=piece, path=files[flash][-1], flash=flash)
                print(f"  {start + len(piece)}/{len(ids)} positions", file=sys.stderr)
            found = {
                name: own.ask("quality", left=files["reference"], right=files[name])
                for name in ("boli", "off", "on")
            }
        best = min(("off", "on"), key=lambda name: float(found[name]["mean_kl"]))
        ratio = found["boli"]["mean_kl"] / found[best]["mean_kl"]
        return {
            "kind": "quality",
            "work": f"mean KL at {len(ids):,} positions, {path.stem}",
            "target": case.target,
            "ratio": ratio,
            "reached": ratio <= case.target,
            "boli": found["boli"],
            "peer": found[best],
        }

    def _start(self, case: Start) -> Found:
        if self.llama_program is None:
            raise EngineError("give --llama-cli the path of llama-cli or llama-completion")
        path, threads = str(self._file(case.model, SAME)), str(self.threads)
        ours = [sys.executable, "-m", "boli", "generate", PROMPT, "-m", path, "--max-tokens", "8"]
        ours += ["--threads", threads]
        theirs = [self.llama_program, "-m", path, "-p", PROMPT, "-n", "8", "-t", threads, "--temp", "0"]
        theirs.append("-no-cnv" if "completion" in Path(self.llama_program).name else "-st")
        for command in (ours, theirs):  # files into memory, kernels into the cache
            whole_run(command)
        pairs = [(whole_run(ours), whole_run(theirs)) for _ in range(self.repeat)]
        time_ratio, memory_ratio = (
            statistics.median(own[part] for own, _ in pairs)
            / statistics.median(peer[part] for _, peer in pairs)
            for part in (0, 1)
        )
        return {
            "kind": "start",
            "work": f"a whole program of 8 tokens, {case.model}, against {Path(self.llama_program).name}",
            "target": [case.most_time, case.most_memory],
            "ratio": [time_ratio, memory_ratio],
            "reached": time_ratio <= case.most_time and memory_ratio <= case.most_memory,
            "seconds": {"boli": _spread([a[0] for a, _ in pairs]), "peer": _spread([b[0] for _, b in pairs])},
            "bytes": {"boli": _spread([a[1] for a, _ in pairs]), "peer": _spread([b[1] for _, b in pairs])},
        }


def _call(engine: Engine, case: Speed | Share, **more: str) -> Callable[[], float]:
    """One measurement, in tokens a second."""
    if case.measure == "prefill":
        return lambda: float(engine.ask("prefill", count=case.count, **more))
    depth, sequences = (case.depth, case.sequences) if isinstance(case, Speed) else (0, 1)
    return lambda: float(engine.ask("decode", steps=case.count, depth=depth, sequences=sequences, **more))


def _better_of(engine: Engine, case: Speed) -> Callable[[], float]:
    """llama.cpp with or without flash attention: whichever is faster when both are tried in turn."""
    calls = {flash: _call(engine, case, flash=flash) for flash in ("off", "on")}
    tried = {flash: [] for flash in calls}  # type: dict[str, list[float]]
    for _ in range(2):
        for flash, call in calls.items():
            tried[flash].append(call())
    return calls[max(tried, key=lambda flash: max(tried[flash]))]


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
