"""What a step has to do at least, counted in two ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from boli.bench.loaded import loaded
from boli.bench.work import Operations, Work, number_formats
from boli.cpu.limits import Limits, Spread
from boli.errors import UsageError
from boli.formats.checkpoint import open_checkpoint
from tiny_models import TINY, Zoo

WORK = Work(
    weight_bytes=1000,
    cache_bytes=10,
    windows=(None, 4, None),
    max_rows=8,
    row=Operations(int8=100, f32=2),
    head=Operations(bf16=30),
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def seen(first: int, end: int, window: int | None) -> set[int]:
    """The positions that any of `first … end - 1` sees."""
    return {
        key
        for query in range(first, end)
        for key in range(query + 1)
        if window is None or query - key < window
    }


@pytest.mark.parametrize(("first", "end"), [(0, 1), (2, 3), (3, 4), (9, 10), (0, 3), (0, 8), (5, 8)])
def test_the_cache_is_read_where_it_is_seen(first: int, end: int) -> None:
    positions = sum(len(seen(first, end, window)) for window in WORK.windows)
    assert WORK.cache_read(end, end - first) == 10 * positions


def test_decoding_reads_the_weights_once_a_step_and_the_cache_of_everyone() -> None:
    nbytes, operations = WORK.decode(steps=3, depth=5, batch=2)
    cached = sum(len(seen(p, p + 1, window)) for p in (5, 6, 7) for window in WORK.windows)
    assert nbytes == 3 * 1000 + 2 * 10 * cached
    assert operations == Operations(int8=600, bf16=180, f32=12)


def test_prefill_goes_in_pieces_and_wants_the_last_logits_only() -> None:
    nbytes, operations = WORK.prefill(20)
    pieces = [(0, 8), (8, 16), (16, 20)]
    cached = sum(len(seen(*piece, window)) for piece in pieces for window in WORK.windows)
    assert nbytes == 3 * 1000 + 10 * cached
    assert operations == Operations(int8=2000, bf16=30, f32=40)


def test_operations_take_their_time_at_the_peak_of_their_unit() -> None:
    limits = Limits(1, Spread((1.0,)), Spread((100.0,)), Spread((10.0,)), Spread((2.0,)), buffer_bytes=1)
    assert Operations(int8=200, bf16=30, f32=4).seconds(limits) == pytest.approx(2 + 3 + 2)
    assert Operations(1, 2, 3).total == 6


@pytest.mark.parametrize(
    ("name", "form", "lookup"), [("llama", "Q8_0", True), ("llama-mha-tied", "Q4_0", False)]
)
def test_only_an_embedding_that_is_no_head_is_left_out(zoo: Zoo, name: str, form: str, lookup: bool) -> None:
    path = zoo.gguf(TINY[name], form)
    with open_checkpoint(path) as checkpoint, loaded(path, threads=1, sequences=2, positions=40) as model:
        config = checkpoint.blueprint.config
        packed = sum(size for key, size in model.ledger.totals().items() if key.startswith("weights"))
        embedding = checkpoint.blueprint.find("embedding")
        assert embedding is not None
        table = config.vocab_size * checkpoint.format_of(embedding).nbytes(config.hidden_size)
        assert model.work.weight_bytes == packed - (table if lookup else 0)
        in_file = sum(tensor.nbytes for tensor in checkpoint.tensors) - (table if lookup else 0)
        assert in_file <= model.work.weight_bytes < 1.3 * in_file  # packing pads a tiny model a lot
        matrices = [
            w for w in checkpoint.blueprint if len(w.shape) == 2 and w.role not in ("embedding", "head")
        ]
        assert model.work.row.total == sum(2 * w.shape[0] * w.shape[1] for w in matrices)
        assert model.work.head.total == 2 * config.vocab_size * config.hidden_size
        least = 2 * config.num_key_value_heads * config.head_dim * 1  # bytes, if a number took one
        assert least <= model.work.cache_bytes <= 8 * least
        assert number_formats(checkpoint).startswith(form)


def test_a_model_made_for_less_is_refused(zoo: Zoo) -> None:
    path = zoo.gguf(TINY["llama"], "Q8_0")
    with pytest.raises(UsageError, match="made for 256"), loaded(path, threads=1, sequences=1, positions=257):
        pass


def test_a_driver_feeds_what_the_runner_would_see_otherwise(zoo: Zoo, tmp_path: Path) -> None:
    """The same logits whatever was decoded before, and whatever the pieces."""
    path = zoo.gguf(TINY["llama"], "Q8_0")
    with loaded(path, threads=1, sequences=3, positions=60) as model:
        driver = model.driver
        ids = driver._ids[:50]
        first = [row.copy() for row in driver.logits(ids, 50)]
        driver.prefill(40, sequence=1)
        decoded = driver.decode(4, depth=40)
        assert decoded.step_seconds > 0
        assert decoded.sampling_seconds > 0
        assert decoded.logits.shape == first[0].shape
        again = [row.copy() for row in driver.logits(ids, 7)]
        assert all((left == right).all() for left, right in zip(first, again, strict=True))
