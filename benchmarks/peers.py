"""boli and its peers on the same machine, threads, files and lengths, in turn.

    pip install -e '.[peers]'        llama-cpp-python compiles for this processor: some minutes
    python benchmarks/peers.py --json results.json
    python benchmarks/peers.py --only 'batch-*' --repeat 3
    python benchmarks/peers.py --json results.json --render [TABLE.md]

Every engine runs in a process of its own, on as many processors as it has threads. Two engines that
are compared take turns, A B A B, so that a noisy neighbour hits both; what is compared are medians.
llama.cpp is tried with and without flash attention, and the better is taken. Cases are in
`cases.py`; `--json` keeps what was measured before and adds to it; `--render` writes
RESULTS.md, or the table that it names, one for each machine.
Run it on a machine that does nothing else. The case `start` needs llama.cpp's own program: build
`llama-completion` or `llama-cli` natively from the sources that llama-cpp-python brings
(`vendor/llama.cpp`), and name it with `--llama-cli`.

The targets are those of machines without AMX. On one that has it, `--without-amx` compares as if it had
not; llama.cpp then has to be built so: libraries of `cmake -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF
-DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON …`, whose folder the variable LLAMA_CPP_LIB_PATH names.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import report
from cases import CASES, Case
from engines import EngineError
from measuring import Bench, Found

from boli.machine import cache_dir, cpu_name, memory_total, usable_cores


def chosen(patterns: list[str]) -> Iterator[Case]:
    """The cases whose names match; all of them without a pattern."""
    for case in CASES:
        if not patterns or any(fnmatch.fnmatch(case.name, pattern) for pattern in patterns):
            yield case


# Every engine's own switch, and a word to our workers.
WITHOUT_AMX = {
    "BOLI_SIMD": "avx512vnni",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",  # OpenVINO and torch
    "PEERS_WITHOUT_AMX": "1",  # llama.cpp's worker sees that its build is so
}


def machine(options: argparse.Namespace) -> Found:
    """Where this was measured."""
    return {
        "cpu": cpu_name(), "cores": usable_cores(), "threads": options.threads,
        "memory_bytes": memory_total(), "without_amx": options.without_amx,
    }  # fmt: skip


def main() -> int:
    """Measures, prints and writes; the exit code is 1 if a case could not be measured."""
    options = arguments()
    file = None if options.json is None else Path(options.json)
    document: Found = json.loads(file.read_text()) if file is not None and file.exists() else {"cases": {}}
    if options.render:
        report.write(document, Path(options.render), [case.name for case in CASES], options.note)
        return 0
    if options.without_amx:
        os.environ |= WITHOUT_AMX
    pythons = {"boli": sys.executable, "transformers": options.torch_python}
    pythons |= dict.fromkeys(("llama", "openvino"), options.peer_python)
    bench = Bench(
        pythons,
        repeat=options.repeat,
        threads=options.threads,
        folder=Path(options.files),
        llama_program=options.llama_cli,
    )
    failed = False
    for case in chosen(options.only):
        print(f"{case.name}:", file=sys.stderr)
        try:
            found = bench.run(case)
        except EngineError as error:
            failed = True
            found = {"kind": "failed", "work": case.name, "reached": None, "error": str(error)}
        found["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        document["cases"][case.name] = found
        document["machine"] = machine(options)
        document["versions"] = {**document.get("versions", {}), **bench.versions}
        print(report.line(case.name, found), flush=True)
        if file is not None:
            file.write_text(json.dumps(document, indent=1) + "\n")
    return int(failed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="cases, * allowed; may be repeated"
    )
    parser.add_argument("--repeat", type=int, default=5, help="turns of each case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="keep and add results here")
    parser.add_argument(
        "--render",
        nargs="?",
        const=Path(__file__).with_name("RESULTS.md"),
        metavar="TABLE",
        help="write RESULTS.md, or another table, from --json; measure nothing",
    )
    parser.add_argument(
        "--note", default="", metavar="TEXT", help="a line on how it was measured, for --render"
    )
    parser.add_argument("--files", default=str(cache_dir() / "benchmarks"), help="folder of made model files")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="has llama-cpp-python and openvino-genai"
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="has torch, transformers and accelerate"
    )
    parser.add_argument("--without-amx", action="store_true", help="leave tile registers out of all engines")
    parser.add_argument("--llama-cli", metavar="PATH", help="llama-cli or llama-completion, for 'start'")
    options = parser.parse_args()
    if options.render and not (options.json and Path(options.json).is_file()):
        parser.error("--render needs --json with a file of results")
    if options.repeat < 1 or options.threads < 1:
        parser.error("--repeat and --threads are at least 1")
    if options.only and not list(chosen(options.only)):
        parser.error(f"no case matches; there are {', '.join(case.name for case in CASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
