"""`boli serve` under load, beside `llama-server` on the same machine, file and threads, in turn.

    pip install -e '.[serve]'
    python benchmarks/serve.py --llama-server PATH --json serve.json
    python benchmarks/serve.py --only streams --only overhead --repeat 3 --json serve.json
    python benchmarks/serve.py --json serve.json --render

The client is our own (`load/`): requests of an open loop come at the times of a Poisson process,
whatever has become of those before, and latencies count from when a request was due, so that no
waiting is hidden. Tokens are counted from `usage`. Client and server share the processors, the same
way for both servers; the client's share of a core is in the JSON. Servers take turns, A B A B, and
sleep while it is not their turn. llama-server has a slot for each stream, and flash attention where
that is faster. All traffic stays on the loopback, and every trial is bounded in requests and time.
llama-server is built natively from the sources that llama-cpp-python brings (`vendor/llama.cpp`).
Run it on a machine that does nothing else. `--json` keeps what was measured before and adds to it;
`--render` writes SERVE.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

from engines import EngineError
from load import report
from load.servers import ServerError, Setting
from load.trials import TRIALS, Found
from load.turns import Turns

from boli.machine import cpu_name, memory_total, usable_cores
from boli.sources import resolve


def main() -> int:
    """Measures, prints and writes; the exit code is 1 if a trial could not be made."""
    options = arguments()
    file = None if options.json is None else Path(options.json)
    document: Found = json.loads(file.read_text()) if file is not None and file.exists() else {"trials": {}}
    if options.render:
        report.write(document, Path(__file__).with_name("SERVE.md"), list(TRIALS))
        return 0
    model = resolve(options.model).path
    turns = Turns(
        Setting(model, options.threads),
        llama_server=options.llama_server,
        repeat=options.repeat,
        requests=options.requests,
        seconds=options.seconds,
    )
    turns.note_versions()
    failed = False
    for name in options.only or TRIALS:
        print(f"{name}:", file=sys.stderr)
        try:
            found = TRIALS[name](turns)
        except (ServerError, EngineError) as error:
            failed = True
            found = {"work": name, "rows": [], "error": str(error)}
        found["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        document["trials"][name] = found
        document["machine"] = {
            "cpu": cpu_name(), "cores": usable_cores(), "threads": options.threads,
            "memory_bytes": memory_total(), "model": model.name,
        }  # fmt: skip
        document["versions"] = {**document.get("versions", {}), **turns.versions}
        print("\n".join(report.lines(name, found)), flush=True)
        if file is not None:
            file.write_text(json.dumps(document, indent=1) + "\n")
    return int(failed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-server", metavar="PATH", help="the program; boli alone without it")
    parser.add_argument("--model", default="smollm2", help="an alias of boli's, or a GGUF file")
    parser.add_argument(
        "--only", action="append", default=[], choices=list(TRIALS), help="a trial; may be repeated"
    )
    parser.add_argument("--repeat", type=int, default=3, help="turns of each trial")
    parser.add_argument("--requests", type=int, default=100, help="of an open loop")
    parser.add_argument("--seconds", type=float, default=60.0, help="that the overload lasts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="keep and add results here")
    parser.add_argument("--render", action="store_true", help="write SERVE.md from --json, measure nothing")
    options = parser.parse_args()
    if options.render and not (options.json and Path(options.json).is_file()):
        parser.error("--render needs --json with a file of results")
    if min(options.repeat, options.requests, options.threads) < 1 or options.seconds <= 0:
        parser.error("--repeat, --requests and --threads are at least 1, --seconds above 0")
    if options.llama_server is not None and not Path(options.llama_server).is_file():
        parser.error(f"there is no program {options.llama_server}")
    return options


if __name__ == "__main__":
    sys.exit(main())
