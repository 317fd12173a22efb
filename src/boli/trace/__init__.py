"""The x-ray: what happened in a run, replayed with probes.

    run ─ replay ─▶ evidence ─ document ─▶ JSON ─▶ terminal, page, notebook

A run keeps its tokens and settings (`boli.engine.record`). The replay sends them through the same compiled
step with probes (`observing`), so that nothing is slower when nobody looks. What was seen becomes one
document (`document`), and views know nothing else.
"""

from __future__ import annotations

from boli.trace.api import Trace
from boli.trace.prices import Detail, Price, price

__all__ = ["Detail", "Price", "Trace", "price"]
