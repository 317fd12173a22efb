"""What a model says does not depend, to the last bit, on how the engine came to compute it.

Real kernels, tiny random models. Each scenario runs the same requests in its own way; log-probabilities
are compared with those of each request run cold and alone, and with them the sum over all logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from boli.cpu.runner import CpuRunner
from boli.engine.engine import Engine
from boli.engine.ledger import Ledger
from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from boli.formats.checkpoint import open_checkpoint
from engine.books import audit
from engine.toy_engine import bold, foretell, run_all
from tiny_models import TINY, Zoo, prompt, wide

CONTEXT = 256
COUNT = 20
MODELS = {
    "llama F32, cache in f32": (TINY["llama"], "F32", "f32"),
    "llama Q4_1, cache in bf16": (wide("llama"), "Q4_1", "bf16"),
    "gemma3 Q8_0, cache in int8": (wide("gemma3"), "Q8_0", "int8"),
}
GREEDY = SamplingParams(max_tokens=COUNT, logprobs=5, ignore_eos=True)
SETTINGS = [
    GREEDY,
    replace(GREEDY, temperature=0.9, top_p=0.95, seed=3),
    replace(GREEDY, temperature=1.2, repetition_penalty=1.3, frequency_penalty=0.5, seed=4),
]
# Beginnings that are shared in full pages, in part of one, and not at all; ends before and behind one.
PROMPTS = [prompt(90, 1), prompt(90, 1)[:70] + prompt(9, 2), prompt(90, 1)[:33], prompt(31, 3), prompt(64, 4)]

Texts = list[list[Sampled]]
MakeRunner = Callable[..., CpuRunner]


class Model:
    """A tiny model, and what it says to each prompt when asked cold and alone."""

    def __init__(self, path: Path, kv_type: str) -> None:
        self.path = path
        self.kv_type = kv_type
        runner = self.runner()
        self.expected: Texts = []
        for index in range(len(PROMPTS)):
            engine = Engine(runner, context=CONTEXT)
            request = submit(engine, [index])[0]
            run_all(engine)
            assert request.error is None
            self.expected.append(request.output)
        runner.close()

    def runner(self, *, threads: int = 1, max_rows: int = 512, num_pages: int = 64) -> CpuRunner:
        with open_checkpoint(self.path) as checkpoint:
            return CpuRunner(
                checkpoint,
                ledger=Ledger(),
                num_pages=num_pages,
                max_sequences=8,
                max_rows=max_rows,
                threads=threads,
                context=CONTEXT,
                kv_type=self.kv_type,
            )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, zoo: Zoo) -> Model:
    tiny, quantization, kv_type = MODELS[request.param]
    return Model(zoo.gguf(tiny, quantization), kv_type)


@pytest.fixture
def runner_of(model: Model) -> Iterator[MakeRunner]:
    runners: list[CpuRunner] = []

    def make(**settings: int) -> CpuRunner:
        runners.append(model.runner(**settings))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()


def submit(engine: Engine, indices: Sequence[int]) -> list[Request]:
    return [engine.submit(PROMPTS[index], SETTINGS[index % len(SETTINGS)]) for index in indices]


def ask_all(engine: Engine, model: Model, *, every: int | None = None) -> list[Request]:
    """Asks everything at once and checks every answer; with `every`, guesses are wrong that often."""
    requests = submit(engine, range(len(PROMPTS)))
    if every is not None:
        for request, answer in zip(requests, model.expected, strict=True):
            foretell(request, [sampled.id for sampled in answer], every)
    while engine.step():
        audit(engine, requests)
    for request, answer in zip(requests, model.expected, strict=True):
        assert (request.finish_reason, request.error) == ("length", None)
        assert request.output == answer
    return requests


def test_the_reference_is_a_text_worth_comparing(model: Model) -> None:
    assert [len(answer) for answer in model.expected] == [COUNT] * len(PROMPTS)
    assert min(len({sampled.id for sampled in answer}) for answer in model.expected) > 3


@pytest.mark.parametrize(
    ("threads", "max_rows", "budget"),
    [(1, 8, 1), (1, 8, 3), (1, 23, 16), (1, 512, 128), (2, 23, 16), (2, 512, 128)],
)
def test_chunks_neighbours_and_threads(
    model: Model, runner_of: MakeRunner, threads: int, max_rows: int, budget: int
) -> None:
    runner = runner_of(threads=threads, max_rows=max_rows)
    ask_all(Engine(runner, context=CONTEXT, max_sequences=8, prefill_budget=budget), model)


def test_a_prefix_from_the_cache(model: Model, runner_of: MakeRunner) -> None:
    engine = Engine(runner_of(), context=CONTEXT)
    assert max(request.reused for request in ask_all(engine, model)) == 0, "all cold, side by side"
    hits = [request.reused for request in ask_all(engine, model)]
    assert hits == [64, 64, 32, 0, 32]
    for index, answer in enumerate(model.expected):
        alone = submit(engine, [index])[0]
        run_all(engine)
        assert (alone.reused, alone.output) == (hits[index], answer)


def test_a_conversation_goes_on_from_its_own_answer(model: Model, runner_of: MakeRunner) -> None:
    """The answer's pages were computed a token at a time, the reference's in one prompt."""
    warm, cold = (Engine(runner_of(), context=CONTEXT) for _ in range(2))
    first = warm.submit(PROMPTS[0], replace(GREEDY, max_tokens=40))
    run_all(warm)
    turn = [*first.tokens, *prompt(5, 9)]
    requests = [engine.submit(turn, GREEDY) for engine in (warm, cold)]
    run_all(warm)
    run_all(cold)
    assert [request.reused for request in requests] == [128, 0]
    assert requests[0].output == requests[1].output


def test_preemption(model: Model, runner_of: MakeRunner) -> None:
    engine = Engine(runner_of(num_pages=8), context=CONTEXT, prefill_budget=40)
    for _ in range(2):
        ask_all(engine, model)
    assert engine.scheduler.preemptions > 0


@pytest.mark.parametrize(
    ("threads", "depth", "every"),
    [(1, 1, 1), (1, 1, 10**9), (1, 3, 1), (1, 3, 3), (1, 9, 4), (1, 9, 10**9), (2, 3, 3)],
)
def test_speculation(model: Model, runner_of: MakeRunner, threads: int, depth: int, every: int) -> None:
    engine = Engine(runner_of(threads=threads), context=CONTEXT, speculation=bold(depth))
    requests = ask_all(engine, model, every=every)
    assert all(request.guesses and request.guesses.drafted for request in requests)


def test_everything_at_once(model: Model, runner_of: MakeRunner) -> None:
    """Few pages, small steps, hits, guesses, and requests that are aborted on the way."""
    engine = Engine(
        runner_of(threads=2, num_pages=9, max_rows=19),
        context=CONTEXT,
        max_sequences=6,
        prefill_budget=7,
        speculation=bold(3),
    )
    for round_ in range(4):
        doomed = submit(engine, [round_, 4 - round_])
        for _ in range(5 * round_):
            engine.step()
        for request in doomed:
            engine.abort(request)
        ask_all(engine, model, every=2 + round_)
    assert engine.scheduler.preemptions > 0
