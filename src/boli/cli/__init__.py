"""The command line. One file a command; `app` frames them, `report` says how they end badly."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    try:
        from boli.cli.app import run  # noqa: PLC0415  Ctrl-C may come while this is imported

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
