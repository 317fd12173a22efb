"""How watching is asked for: names, prices, times, memory, and what may go wrong."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from boli.cpu import compiler
from boli.cpu import header as header_module
from boli.cpu import observe as observe_module
from boli.cpu import runner as runner_module
from boli.cpu import team as team_module
from boli.cpu.probing import PROBES, Observation
from boli.cpu.runner import CpuRunner
from boli.engine.ledger import Ledger
from boli.errors import BoliError, OutOfMemory, UsageError
from boli.formats.checkpoint import open_checkpoint
from cpu.driving import make_runner, page_tables
from cpu.watching import batch_of, ragged
from tiny_models import TINY, Zoo, prompt, wide


def limited(zoo: Zoo, ledger: Ledger) -> CpuRunner:
    with open_checkpoint(zoo.folder(TINY["llama"])) as checkpoint:
        return CpuRunner(
            checkpoint, ledger=ledger, num_pages=192, max_sequences=8, max_rows=64, threads=2, context=768
        )


@pytest.mark.parametrize("name", TINY)
def test_the_price_is_what_comes(name: str, zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY[name]))
    for batch in ragged():
        rows, outputs = len(batch.token_ids), len(batch.logits_rows)
        for wanted in (PROBES, (), ["residual", "final_norm"]):
            seen = runner.observe(batch, wanted)
            assert runner.observe_bytes(rows, wanted, outputs) == seen.nbytes == bytes_of(seen)
    assert runner.observe_bytes(5) == runner.observe_bytes(5, PROBES, 5)
    runner.close()


def bytes_of(seen: Observation) -> int:
    """Bytes of all arrays; those of the logits with their padding, of which they are a view."""
    logits = seen.logits if seen.logits.base is None else seen.logits.base
    return sum(array.nbytes for array in (*seen.values.values(), logits, seen.seconds))


def test_only_what_is_wanted_comes(zoo: Zoo) -> None:
    runner, batch = make_runner(zoo.folder(TINY["llama"])), batch_of([(0, 0, prompt(9))])
    everything = runner.observe(batch)
    assert tuple(everything.values) == PROBES
    for place in PROBES:
        seen = runner.observe(batch, [place])
        assert list(seen.values) == [place]
        np.testing.assert_array_equal(seen.values[place], everything.values[place], err_msg=place)
    assert runner.observe(batch, ()).values == {}
    runner.close()


def test_a_family_without_gate_shows_none(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["gpt2"]))
    assert set(PROBES) - set(runner.observe(batch_of([(0, 0, [5])])).values) == {"gate"}
    runner.close()


def test_values_belong_to_the_caller(zoo: Zoo) -> None:
    runner, batch = make_runner(zoo.folder(TINY["llama"])), batch_of([(0, 0, prompt(9))])
    first = runner.observe(batch)
    kept = {place: array.copy() for place, array in first.values.items()}
    logits = first.logits.copy()
    runner.observe(batch_of([(1, 0, prompt(9, 1))]))
    runner.close()
    np.testing.assert_array_equal(first.logits, logits)
    for place, array in first.values.items():
        np.testing.assert_array_equal(array, kept[place])


def test_a_name_that_no_step_has_is_an_error_that_names_it(zoo: Zoo) -> None:
    runner, batch = make_runner(zoo.folder(TINY["llama"])), batch_of([(0, 0, [5])])
    for ask in (
        lambda: runner.observe(batch, ["residual", "soul"]),
        lambda: runner.observe_bytes(1, ["soul"]),
    ):
        with pytest.raises(UsageError, match="'soul'") as caught:
            ask()
        assert "mlp_branch" in str(caught.value)
    runner.close()


def test_bad_tables_are_refused_as_in_a_plain_step(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]))
    with pytest.raises(ValueError, match="token id outside"):
        runner.observe(batch_of([(0, 0, [10**6])]))
    with pytest.raises(ValueError, match="rows"):
        runner.hidden(batch_of([(0, 0, prompt(65))]))
    for wrong in (np.zeros((3, 5), np.float32), np.zeros(96, np.float32)):
        with pytest.raises(ValueError, match="hidden"):
            runner.head_logits(wrong)
    table = page_tables(8)[0]
    for layer, pages, length in (
        (2, table, 5),
        (-1, table, 5),
        (0, table[:1], 33),
        (0, table, -1),
        (0, table + 999, 5),
    ):
        with pytest.raises(ValueError, match=r"outside|not in"):
            runner.keys_values(layer, pages, length)
    runner.close()


def test_times_are_those_of_the_step(zoo: Zoo) -> None:
    runner, batch = make_runner(zoo.folder(wide("llama"))), batch_of([(0, 0, prompt(60))])
    runner.observe(batch)
    start = time.perf_counter()
    seen = runner.observe(batch, ())
    elapsed = time.perf_counter() - start
    assert seen.seconds.shape == (runner.blueprint.config.num_hidden_layers, len(seen.stage_names))
    assert (seen.seconds > 0).all()
    assert set(seen.other_seconds) == {"embedding", "head"}
    assert 0 < sum(seen.other_seconds.values()) + seen.seconds.sum() <= elapsed
    runner.close()


def test_the_watched_step_is_loaded_when_it_is_first_needed(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    real = compiler.load

    def load(
        units: list[compiler.Unit], progress: compiler.Progress | None = None
    ) -> list[compiler.Function]:
        loaded.extend(unit.name for unit in units)
        return real(units, progress)

    monkeypatch.setattr(compiler, "load", load)
    threads = threading.active_count()
    runner = make_runner(zoo.folder(TINY["llama"]), threads=2)
    runner.forward(batch_of([(0, 0, [5])]))
    assert "step" in loaded
    assert "step_probed" not in loaded
    assert threading.active_count() == threads + 1
    for _ in range(2):
        runner.observe(batch_of([(0, 0, [5])]))
    assert loaded.count("step_probed") == 1
    assert threading.active_count() == threads + 2
    runner.close()
    assert threading.active_count() == threads


def test_what_does_not_fit_is_refused_before_it_is_allocated(zoo: Zoo) -> None:
    free = 10**9
    runner = limited(zoo, Ledger(lambda: free))
    batch = batch_of([(0, 0, prompt(50))])
    expected = runner.observe(batch).logits
    books = runner._ledger.totals()
    free = 100_000
    assert runner.observe_bytes(50) > free
    with pytest.raises(OutOfMemory, match="what is seen of a step"):
        runner.observe(batch)
    with pytest.raises(OutOfMemory, match="what is seen of a step"):
        runner.head_logits(np.zeros((1000, 96), np.float32))
    free = 10**9
    np.testing.assert_array_equal(runner.observe(batch).logits, expected)
    assert runner._ledger.totals() == books
    runner.close()


def test_a_closed_model_cannot_be_watched(zoo: Zoo) -> None:
    batch = batch_of([(0, 0, [5])])
    for watched_before in (False, True):
        runner = make_runner(zoo.folder(TINY["llama"]))
        if watched_before:
            runner.observe(batch)
        runner.close()
        runner.close()
        asks: list[Callable[[CpuRunner], object]] = [
            lambda closed: closed.observe(batch),
            lambda closed: closed.hidden(batch),
            lambda closed: closed.head_logits(np.zeros((1, 96), np.float32)),
            lambda closed: closed.keys_values(0, page_tables(8)[0], 1),
        ]
        for ask in asks:
            with pytest.raises(BoliError, match="closed"):
                ask(runner)


def test_ctrl_c_at_any_line_leaves_the_model_usable(zoo: Zoo) -> None:
    """Python raises KeyboardInterrupt between two of its own instructions: here, before each line in turn."""
    modules = (runner_module, observe_module, header_module, team_module)
    files = {module.__file__ for module in modules}
    runner, batch = make_runner(zoo.folder(TINY["llama"]), threads=2), batch_of([(0, 0, prompt(9))])
    expected = runner.observe(batch)
    residual = expected.values["residual"][-1]
    calls = (
        lambda: runner.observe(batch),
        lambda: runner.head_logits(residual),
        lambda: runner.hidden(batch),
    )
    for call in calls:
        line, finished = 0, False
        while not finished:
            line += 1
            left = line

            def trace(frame: FrameType, event: str, argument: Any) -> Any:
                nonlocal left
                if frame.f_code.co_filename not in files:
                    return None
                if event == "line":
                    left -= 1
                    if left == 0:
                        raise KeyboardInterrupt
                return trace

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                call()
                finished = True
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            seen = runner.observe(batch)
            np.testing.assert_array_equal(seen.logits, expected.logits)
            np.testing.assert_array_equal(seen.values["inner"], expected.values["inner"])
        assert line > 15
        np.testing.assert_array_equal(runner.forward(batch), expected.logits)
    runner.close()
