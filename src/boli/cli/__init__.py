"""The command line. One file a command; `app` frames them, `report` says how they end badly."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    # boli has threads of its own. NumPy's would only spin for a while after its import, beside them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from boli.cli.app import run  # noqa: PLC0415  Ctrl-C may come while this is imported

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    gc.freeze()  # the process ends: Python need not look for cycles in all that is left, which takes a while
    sys.exit(code)
