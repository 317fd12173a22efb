"""Measures a model on this machine, and holds it against what the machine can do.

boli.bench.run("smollm2", depth=4096).decode.share_of_bandwidth

limits        boli.cpu.limits: what the machine reads and computes at most
work.py       what a step has to read and to compute at least
loaded.py     a runner of just the right size
driver.py     feeds it, and looks at the clock
quality.py    how far its answers are from full precision
measure.py    `run`, which does all that
result.py     what comes out, and its JSON document
"""

from __future__ import annotations

from boli.bench.measure import run
from boli.bench.quality import Quality
from boli.bench.result import Apart, Books, Rate, Result, Settings

__all__ = ["Apart", "Books", "Quality", "Rate", "Result", "Settings", "run"]
