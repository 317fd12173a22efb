"""Numbers as they stand in a document: short, but exact where a proof needs them."""

from __future__ import annotations

import math

import numpy as np


def short(value: float, digits: int = 6) -> float:
    """A number with so many digits."""
    return float(f"{value:.{digits}g}")


def exact(value: float | np.float32) -> float:
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(value)))


def or_null(value: float | None) -> float | None:
    """A number; None where it is infinite, which JSON does not have."""
    return value if value is None or math.isfinite(value) else None
