"""What samples add up to."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from load.client import Sample

Figures = dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """The least of these values that is not exceeded by this share of them; there must be one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def p50_90_99(values: Sequence[float]) -> Figures:
    """Three percentiles and the most, with the number of values behind them; None if there are none."""
    found: Figures = {
        f"p{round(share * 100)}": percentile(values, share) if values else None for share in (0.5, 0.9, 0.99)
    }
    return {**found, "max": max(values, default=None), "n": len(values)}


def summary(samples: Sequence[Sample], *, ttft: float = math.inf, gap: float = math.inf) -> Figures:
    """All figures of one run. Times in seconds, rates per second.

    Args:
        samples: Of all requests, answered or not.
        ttft: The most time to the first token with which an answer counts as good.
        gap: The same for the longest time between two pieces of its text.
    """
    good = [sample for sample in samples if sample.good]
    begun = min(sample.due for sample in samples)
    wall = max(sample.ended for sample in samples) - begun
    met = [s for s in good if s.ttft <= ttft and max(s.gaps, default=0.0) <= gap]
    refused = [sample for sample in samples if sample.status == 429]
    return {
        "requests": len(samples),
        "answered": len(good),
        "statuses": {str(status): n for status, n in sorted(Counter(s.status for s in samples).items())},
        "errors": sorted({s.error for s in samples if s.error and s.status != 429})[:5],
        "seconds": wall,
        "prompt_tokens": sum(sample.prompt_tokens for sample in good),
        "cached_tokens": sum(sample.cached_tokens for sample in good),
        "output_tokens": sum(sample.output_tokens for sample in good),
        "output_tokens_per_s": sum(sample.output_tokens for sample in good) / wall,
        "requests_per_s": len(good) / wall,
        "goodput_per_s": len(met) / wall,
        "ttft": p50_90_99([sample.ttft for sample in good]),
        "itl": p50_90_99([gap for sample in good for gap in sample.gaps]),
        "tpot": p50_90_99([sample.tpot for sample in good]),
        "e2e": p50_90_99([sample.e2e for sample in good]),
        "refusal": p50_90_99([sample.e2e for sample in refused]),
        "refused_without_retry_after": sum(not sample.retry_after for sample in refused),
    }
