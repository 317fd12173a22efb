"""Numbers for Prometheus, under the names that dashboards of vLLM know, with `boli:` for `vllm:`.

They are counted in plain lists, and become Prometheus' own objects only when somebody asks: a token costs
less than a microsecond. No label holds anything that a user wrote.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from boli.server.answer import Answer
from boli.server.embeddings_queue import EmbeddingJob
from boli.server.service import Service

# Seconds. From a token of a small model to a long prompt on two cores.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
_RATE_SECONDS = 5.0  # over which tokens a second are counted


class Histogram:
    """How often values fell below each of some bounds.

    Args:
        bounds: Ascending; what is above the last one is counted too.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value, several times if it was the same."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """The cumulated counts, as Prometheus has them."""
        return list(zip([*map(str, self.bounds), "+Inf"], accumulate(self.counts), strict=True))


class Metrics(Collector):
    """Counts what a service does.

    Args:
        service: Whose answers are counted.
        model: What replies call the model; the label of every number.
    """

    def __init__(self, service: Service, model: str) -> None:
        self._service = service
        self._labels = ("model_name",), (model,)
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.embedding_tokens = self.embedding_texts = 0
        self.ends: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.histograms = {
            "time_to_first_token_seconds": Histogram(_LONG),
            "inter_token_latency_seconds": Histogram(_SHORT),
            "request_time_per_output_token_seconds": Histogram(_SHORT),
            "e2e_request_latency_seconds": Histogram(_LONG),
            "request_queue_time_seconds": Histogram(_LONG),
            "request_prefill_time_seconds": Histogram(_LONG),
            "request_decode_time_seconds": Histogram(_LONG),
            "request_prompt_tokens": Histogram(_TOKENS),
            "request_generation_tokens": Histogram(_TOKENS),
            "embedding_latency_seconds": Histogram(_LONG),
            "embedding_queue_time_seconds": Histogram(_LONG),
        }
        self._gaps = self.histograms["inter_token_latency_seconds"]
        self._recent: deque[tuple[float, int]] = deque()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        service.on_news.append(self._news)
        service.on_end.append(self._ended)
        service.embeddings.on_end.append(self._embedded)

    def text(self) -> bytes:
        """All numbers in Prometheus' format."""
        return generate_latest(self._registry)

    def rate(self) -> float:
        """Generated tokens a second, lately."""
        now = time.perf_counter()
        self._forget(now)
        return sum(count for _, count in self._recent) / _RATE_SECONDS

    def collect(self) -> Iterator[Metric]:
        """All numbers as Prometheus' objects."""
        stats = self._service.stats()
        pages = stats["pages"]
        names, values = self._labels
        for name, text, value in (
            ("num_requests_running", "Requests that compute.", stats["running"]),
            ("num_requests_waiting", "Requests that wait for their turn.", stats["waiting"]),
            ("kv_cache_usage_perc", "Share of the KV cache's pages in use, 0 to 1.",
             pages["used"] / pages["total"]),
            ("kv_pages_used", "Pages of the KV cache that requests hold.", pages["used"]),
            ("kv_pages_cached", "Pages that are kept in case they are wanted again.", pages["cached"]),
            ("kv_pages_free", "Pages that hold nothing.", pages["free"]),
            ("engine_beat_age_seconds", "Since the engine was last between two steps.", stats["beat_age_s"]),
        ):  # fmt: skip
            gauge = GaugeMetricFamily(f"boli:{name}", text, labels=names)
            gauge.add_metric(values, value)
            yield gauge
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts.", self.prompt_tokens),
            ("generation_tokens", "Tokens that were generated.", self.generated_tokens),
            (
                "prefix_cache_queries",
                "Tokens of prompts that were looked up.",
                self.prompt_tokens,
            ),
            ("embedding_tokens", "Tokens of texts that became vectors.", self.embedding_tokens),
            ("embedding_texts", "Texts that became vectors.", self.embedding_texts),
            ("prefix_cache_hits", "Tokens of prompts that were in the cache.", self.cached_tokens),
            ("num_preemptions", "How often a request gave its pages back.", stats["preemptions"]),
        ):
            counter = CounterMetricFamily(f"boli:{name}", text, labels=names)
            counter.add_metric(values, value)
            yield counter
        done = CounterMetricFamily(
            "boli:request_success", "Requests that ended, by reason.", labels=[*names, "finished_reason"]
        )
        for reason, count in self.ends.items():
            done.add_metric([*values, reason], count)
        yield done
        statuses = CounterMetricFamily("boli:http_responses", "Responses, by status.", labels=["status"])
        for status, count in self.statuses.items():
            statuses.add_metric([str(status)], count)
        yield statuses
        for name, histogram in self.histograms.items():
            family = HistogramMetricFamily(f"boli:{name}", name.replace("_", " "), labels=names)
            family.add_metric(values, histogram.buckets(), histogram.sum)
            yield family

    def _news(self, answer: Answer) -> None:
        """An answer has new tokens."""
        now = time.perf_counter()
        new = answer.completion_tokens - max(0, answer.seen)
        if not new:
            return
        if answer.seen > 0:
            self._gaps.observe((now - answer.told) / new, new)
        elif answer.request is not None:
            first = answer.request.first_token
            self.histograms["time_to_first_token_seconds"].observe(first - answer.submitted)
            if new > 1:
                self._gaps.observe((now - first) / (new - 1), new - 1)
        answer.told = now
        self.generated_tokens += new
        self._recent.append((now, new))
        if len(self._recent) > 1 and self._recent[0][0] < now - 2 * _RATE_SECONDS:
            self._forget(now)

    def _ended(self, answer: Answer) -> None:
        request, observe = answer.request, self.histograms
        self.ends[answer.finish_reason] += 1
        if request is None:
            return
        self.prompt_tokens += answer.prompt_tokens
        self.cached_tokens += answer.cached_tokens
        observe["e2e_request_latency_seconds"].observe(request.finished_at - answer.submitted)
        observe["request_prompt_tokens"].observe(answer.prompt_tokens)
        observe["request_generation_tokens"].observe(answer.completion_tokens)
        if not request.first_token:
            return
        observe["request_queue_time_seconds"].observe(request.started - answer.submitted)
        observe["request_prefill_time_seconds"].observe(request.first_token - request.started)
        decode = request.finished_at - request.first_token
        observe["request_decode_time_seconds"].observe(decode)
        if answer.completion_tokens > 1:
            each = decode / (answer.completion_tokens - 1)
            observe["request_time_per_output_token_seconds"].observe(each)

    def _embedded(self, job: EmbeddingJob) -> None:
        self.ends[job.finish_reason] += 1
        done = len(job.vectors)
        self.embedding_texts += done
        self.embedding_tokens += sum(map(len, job.prompts[:done]))
        if job.finish_reason == "stop":
            self.histograms["embedding_latency_seconds"].observe(job.ended - job.submitted)
            self.histograms["embedding_queue_time_seconds"].observe(job.started - job.submitted)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _RATE_SECONDS:
            self._recent.popleft()
