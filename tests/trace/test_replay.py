"""A replay is the run again, to the last bit, whatever the run was; and it leaves the engine as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from boli.engine.llm import LLM
from boli.errors import OutOfMemory, UsageError
from boli.trace import price
from boli.trace.arrays import array_bytes
from boli.trace.prices import MOST_BYTES
from boli.trace.replay import replay
from tiny_models import Zoo, prompt, wide
from traced import DEVICE, FAMILIES, lasting, tiny_llm

SAMPLED: Any = {
    "max_tokens": 8,
    "temperature": 0.9,
    "top_k": 50,
    "repetition_penalty": 1.2,
    "ignore_eos": True,
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kv_type", ["bf16", "int8"])
def test_the_logits_are_those_of_the_run(zoo: Zoo, name: str, kv_type: str) -> None:
    with tiny_llm(zoo, name, kv_cache_type=kv_type) as llm:
        trace = llm.trace(prompt(33), detail="summary", seed=4, **SAMPLED)
    proof = trace.proof
    assert (proof["compared"], proof["recorded"], proof["same_model"]) == (8, True, True)
    assert (proof["largest_logit_difference"], proof["largest_logprob_difference"]) == (0.0, 0.0)
    assert proof["sampler_reproduced"] == 8


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_rounded_weights_replay_as_they_ran(zoo: Zoo, name: str, weights: str) -> None:
    with tiny_llm(zoo, wide(name), weights=weights, kv_cache_type="bf16") as llm:
        trace = llm.trace(prompt(20), max_tokens=4, ignore_eos=True)
        kinds = {each["type"] for each in trace.document()["weights"] if len(each["shape"]) == 2}
    assert trace.document()["model"]["weights"] == weights
    assert kinds & {"BF16", "Q8_0", "Q4_1"}
    assert trace.proof["largest_logit_difference"] == trace.proof["lens_difference"] == 0.0


def test_a_run_in_a_batch_has_the_trace_of_the_same_run_alone(zoo: Zoo) -> None:
    prompts = [prompt(n, seed=n) for n in (5, 40, 70, 3)]
    with tiny_llm(zoo) as llm:
        together = llm.generate(prompts, seed=9, **SAMPLED)
    with tiny_llm(zoo, threads=1) as llm:
        for ids, answer in zip(prompts, together, strict=True):
            alone = llm.generate(ids, seed=9, **SAMPLED)
            assert answer.record.token_ids == alone.record.token_ids
            traces = [llm.replay(each.record) for each in (answer, alone)]
            assert traces[0].proof["largest_logit_difference"] == 0.0
            assert lasting(traces[0].document()) == lasting(traces[1].document())


def test_a_run_whose_prompt_came_from_the_cache_has_the_same_trace(llm: LLM) -> None:
    ids = prompt(75, seed=1)
    first, again = (llm.generate(ids, seed=9, **SAMPLED).record for _ in range(2))
    assert (first.reused_tokens, again.reused_tokens) == (0, 64)
    traces = [llm.replay(each) for each in (first, again)]
    assert lasting(traces[0].document()) == lasting(traces[1].document())
    assert [trace.steps[0].data["kv"]["shared"] for trace in traces] == [0, 2]
    assert [trace.proof["largest_logit_difference"] for trace in traces] == [0.0, 0.0]


def test_guessed_tokens_are_traced_like_others(llm: LLM) -> None:
    run = llm.generate([7, 8, 9] * 20, max_tokens=12, ignore_eos=True).record
    trace = llm.replay(run)
    assert trace.proof["largest_logit_difference"] == 0.0
    assert trace.document()["run"]["drafted_tokens"] == run.drafted_tokens


def test_a_long_prompt_goes_in_chunks(zoo: Zoo) -> None:
    with tiny_llm(zoo) as llm:
        llm._engine.runner.max_rows = 16  # observed in steps of 16 rows, run in larger ones
        trace = llm.trace(prompt(50), max_tokens=2, ignore_eos=True)
    steps = trace.document()["prompt_steps"]
    assert [(step["first_position"], step["rows"]) for step in steps] == [
        (0, 16),
        (16, 16),
        (32, 16),
        (48, 2),
    ]
    assert trace.proof["largest_logit_difference"] == 0.0
    assert trace.steps[0].data["time"]["rows"] == 2


def test_a_run_of_one_token_after_one_token(llm: LLM) -> None:
    details: Any = ("summary", "rows", "full")
    for detail in details:
        trace = llm.trace([5], max_tokens=1, detail=detail, ignore_eos=True)
        assert [step.at for step in trace.steps] == [0]
    assert trace.layers[0].attention.weights.ravel().tolist() == [1.0] * 6
    assert trace.document()["prompt_attention"]["weights"]["shape"] == [2, 6, 0, 0]


@pytest.mark.parametrize("detail", ["summary", "rows", "full"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_the_announced_bytes_are_those_written(zoo: Zoo, name: str, detail: Any) -> None:
    announced: list[Any] = []
    with tiny_llm(zoo, name) as llm:
        run = llm.generate(prompt(37), max_tokens=5, ignore_eos=True).record
        trace = replay(llm, run, detail=detail, announce=announced.append)
    written = json.loads(json.dumps(trace.document()))
    offer = announced[0][detail]
    assert offer.bytes == trace.price["bytes_predicted"] == trace.price["bytes"] == array_bytes(written)
    assert offer.bytes == price(llm.blueprint.config, detail, 37, 5).bytes
    assert offer.seconds > 0.0
    assert (detail == "summary") == (offer.bytes == 0)
    assert [(each["detail"], each["bytes"]) for each in written["price"]["offers"]] == [
        (each, price(llm.blueprint.config, each, 37, 5).bytes) for each in ("summary", "rows", "full")
    ]


def test_too_long_for_full_states_the_price_and_proposes_rows(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = llm.generate(prompt(100), max_tokens=5, ignore_eos=True).record
    config = llm.blueprint.config
    full, rows = (price(config, detail, 100, 5).bytes for detail in ("full", "rows"))
    monkeypatch.setattr("boli.trace.prices.MOST_BYTES", rows)
    with pytest.raises(UsageError, match="in 'full' detail takes") as caught:
        llm.replay(run, detail="full")
    assert f"{full / 1e6:.1f} MB" in caught.value.message
    assert "detail 'rows' (" in caught.value.remedy
    llm.replay(run, detail="rows")
    monkeypatch.setattr("boli.trace.prices.MOST_BYTES", rows - 1)
    with pytest.raises(UsageError, match="take detail 'summary'"):
        llm.replay(run, detail="full")
    with pytest.raises(UsageError, match="there is no detail 'everything'"):
        llm.replay(run, detail="everything")  # type: ignore[arg-type]
    assert rows < MOST_BYTES


def test_another_models_run_is_refused_by_name(llm: LLM, zoo: Zoo) -> None:
    with tiny_llm(zoo, "qwen3") as other:
        run = other.generate(prompt(5), max_tokens=3, ignore_eos=True).record
    with pytest.raises(UsageError, match="made with another model") as caught:
        llm.replay(run)
    assert run.model.hash[:12] in caught.value.message
    assert llm.fingerprint[:12] in caught.value.message
    trace = replay(llm, run, other_model=True)
    assert trace.proof["same_model"] is False
    assert trace.proof["largest_logit_difference"] > 0.0
    assert trace.proof["sampler_reproduced"] < 3
    foreign = replace(run, token_ids=(*run.token_ids, 10**6), logits=(*run.logits, 0.0), logprobs=None)
    with pytest.raises(UsageError, match="not in the vocabulary"):
        replay(llm, foreign, other_model=True)


def test_another_type_of_cache_is_said(llm: LLM, zoo: Zoo) -> None:
    with tiny_llm(zoo, kv_cache_type="int8") as other:
        run = other.generate(prompt(50), max_tokens=3, ignore_eos=True).record
    trace = llm.replay(run)
    assert trace.proof["differences"] == ["kv_cache_type: int8 in the run, f32 here"]
    assert trace.proof["largest_logit_difference"] > 0.0
    assert trace.proof["largest_logprob_difference"] is None


def test_a_run_without_an_answer_has_no_trace(llm: LLM) -> None:
    stream = llm.stream(prompt(5))
    stream.close()
    with pytest.raises(UsageError, match="no answer"):
        llm.replay(stream.completion.record)


def test_a_run_longer_than_the_context(llm: LLM, zoo: Zoo) -> None:
    run = llm.generate(prompt(90), max_tokens=5, ignore_eos=True).record
    with (
        tiny_llm(zoo, context=64) as small,
        pytest.raises(UsageError, match="the context holds 64") as caught,
    ):
        small.replay(run)
    assert caught.value.remedy == "load the model with context=95"


def test_too_few_pages_are_an_error_that_counts_them(zoo: Zoo) -> None:
    with tiny_llm(zoo, context=64) as llm:
        run = llm.generate(prompt(50), max_tokens=5, ignore_eos=True).record
        pool = llm._engine.scheduler.pool
        with llm.stream(prompt(40, seed=8), max_tokens=9, ignore_eos=True) as one:
            with llm.stream(prompt(40, seed=9), max_tokens=9, ignore_eos=True) as two:
                for stream in (one, two):
                    next(stream)
                held = pool.used
                with pytest.raises(
                    OutOfMemory, match=f"need 2 pages of the KV cache; {pool.available} are free"
                ):
                    llm.replay(run)
                assert pool.used == held
            text = two.completion.token_ids
            llm.replay(run)  # beside the request that is left
            answer = one.run()
        assert answer.finish_reason == "length"
        assert len(text) < 9
        assert pool.used == 0


def test_requests_go_on_beside_a_replay_with_the_same_answers(llm: LLM) -> None:
    expected = llm.generate(prompt(20, seed=3), max_tokens=10, ignore_eos=True).token_ids
    run = llm.generate(prompt(45), max_tokens=4, ignore_eos=True).record
    with llm.stream(prompt(20, seed=3), max_tokens=10, ignore_eos=True) as stream:
        next(stream)
        trace = llm.replay(run)
        assert stream.run().token_ids == expected
    assert trace.proof["largest_logit_difference"] == 0.0


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_pages_come_back_when_a_step_fails(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    run = llm.generate(prompt(45), max_tokens=4, ignore_eos=True).record

    def fails(*_arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(llm._engine.runner, "observe", fails)
        with pytest.raises(type(error)):
            llm.replay(run)
    assert llm._engine.scheduler.pool.used == 0
    assert llm.replay(run).proof["largest_logit_difference"] == 0.0


def test_a_closed_model_traces_nothing(zoo: Zoo) -> None:
    with tiny_llm(zoo) as llm:
        run = llm.generate(prompt(5), max_tokens=2, ignore_eos=True).record
    with pytest.raises(UsageError, match="closed"):
        llm.replay(run)


def test_an_engine_that_forgot_its_pages_ends_the_replay(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = llm.generate(prompt(45), max_tokens=4, ignore_eos=True).record
    observe, steps = llm._engine.runner.observe, []  # type: ignore[attr-defined]

    def interrupted(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            llm._engine._reset(None)
        return observe(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(llm._engine.runner, "observe", interrupted)
        with pytest.raises(UsageError, match="the pages are lost"):
            llm.replay(run)
    assert llm._engine.scheduler.pool.used == 0


def test_what_if_is_what_would_have_been(llm: LLM) -> None:
    """At the first decision another setting's token is what a run with that setting gives."""
    settings: Any = {"max_tokens": 1, "ignore_eos": True, "seed": 21}
    trace = llm.trace(prompt(30), temperature=0.6, top_k=40, **settings)
    changes: Any = ({"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.0}, {"seed": 5})
    for change in changes:
        other: Any = {"temperature": 0.6, "top_k": 40, **settings, **change}
        if not other["temperature"]:
            other["top_k"] = 0
        expected = llm.generate(prompt(30), **other).token_ids[0]
        assert trace.sampler[0].what_if(**change).chosen == expected
    assert trace.sampler[0].what_if().data == trace.sampler[0].data
    assert trace.sampler[0].chosen == trace.steps[0].token


def test_roofline(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boli.weigh.devices.this_device", lambda threads: DEVICE)
    trace = llm.trace(prompt(30), max_tokens=4, ignore_eos=True, roofline=True)
    roofline = trace.document()["roofline"]
    assert roofline["read_bytes_per_s"] == trace.document()["machine"]["read_bytes_per_s"] == 10**9
    matrices = sum(w["bytes"] for w in trace.document()["weights"] if w["role"] != "embedding")
    assert roofline["bytes_per_token"] == matrices
    assert roofline["predicted_seconds"] == roofline["bytes_with_cache"] / 10**9
    assert roofline["measured_seconds"] > 0
    assert roofline["prefill"]["tokens"] == 30
