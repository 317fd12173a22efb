"""How `peers.py` talks with an engine: a process that answers one JSON line for each it reads.

    → {"do": "decode", "steps": 128, "depth": 0, "sequences": 1}
    ← {"value": 203.1}          or {"error": "…"}

An engine is measured in a process of its own, so that no library, thread or allocator of one
disturbs another, and each may live in a Python of its own. Nothing here needs more than Python.
"""

from __future__ import annotations

import json
import os
import sys


def serve(worker: object) -> None:
    """Answers with a worker's methods until the input ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(worker, request.pop("do"))(**request)}
        except Exception as error:  # the other side decides what it means
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def token(number: int) -> int:
    """Token ids to feed where it does not matter which; any vocabulary of 3,000 has them."""
    return 1000 + number * 7 % 2000
