"""The front: prompts of all kinds in, text out, whole and streamed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.llm import LLM
from boli.engine.loading import load
from boli.engine.output import Timings
from boli.engine.sampling import SamplingParams
from boli.errors import (
    ContextLengthExceeded,
    ModelNotFound,
    NumericError,
    PromptError,
    SamplingError,
    TemplateError,
    UsageError,
)
from engine.toy_llm import MERGED, TEXT, VOCAB, toy_llm
from engine.toy_runner import ToyRunner, expected_tokens


def ids_of(llm: LLM, text: str) -> list[int]:
    return llm.tokenizer.encode(text)


def test_text_in_text_out(llm: LLM) -> None:
    completion = llm.generate(TEXT, max_tokens=40, ignore_eos=True)
    prompt = ids_of(llm, TEXT)
    assert MERGED in prompt
    assert completion.prompt_token_ids == prompt
    assert completion.token_ids == expected_tokens(prompt, SamplingParams(max_tokens=40), VOCAB)
    whole, before = llm.tokenizer.decode(prompt + completion.token_ids, skip_special_tokens=True), TEXT
    assert before + completion.text == whole
    assert completion.finish_reason == "length"
    assert completion.logprobs is None
    assert completion.error is None
    assert (completion.reused_tokens, completion.drafted_tokens, completion.accepted_tokens) == (0, 0, 0)


def test_token_ids_in(llm: LLM) -> None:
    prompt = ids_of(llm, TEXT)
    text = llm.generate(TEXT, max_tokens=5, seed=1, temperature=1.0)
    forms: list[Any] = [prompt, tuple(prompt), np.array(prompt), [np.int64(token) for token in prompt]]
    for ids in forms:
        completion = llm.generate(ids, max_tokens=5, seed=1, temperature=1.0)
        assert completion.token_ids == text.token_ids
        assert completion.prompt_token_ids == prompt


def test_several_prompts_at_once_answer_as_each_alone(llm: LLM) -> None:
    texts = [TEXT[: 3 + 2 * index] for index in range(11)]
    together = llm.generate(texts, max_tokens=20, temperature=1.0, seed=3)
    assert isinstance(together, list)
    for text, completion in zip(texts, together, strict=True):
        alone = llm.generate(text, max_tokens=20, temperature=1.0, seed=3)
        assert (completion.token_ids, completion.text) == (alone.token_ids, alone.text)
    mixed = llm.generate([[1, 2], [3]], max_tokens=2)
    assert [completion.prompt_token_ids for completion in mixed] == [[1, 2], [3]]


def test_the_same_prompt_again_says_what_was_known(llm: LLM) -> None:
    first, again = (llm.generate([7] * 50, max_tokens=3) for _ in range(2))
    assert (first.reused_tokens, again.reused_tokens) == (0, 48)
    assert first.token_ids == again.token_ids


def test_logprobs_are_aligned_with_the_tokens(llm: LLM) -> None:
    completion = llm.generate(TEXT, max_tokens=6, logprobs=3, ignore_eos=True)
    assert completion.logprobs is not None
    assert [entry.id for entry in completion.logprobs] == completion.token_ids
    for entry in completion.logprobs:
        assert entry.top[0] == (entry.id, entry.logprob)
        assert len(entry.top) == 3


def test_a_seed_is_reported_and_repeats_the_run(llm: LLM) -> None:
    first = llm.generate(TEXT, max_tokens=30, temperature=1.5, ignore_eos=True)
    again = llm.generate(TEXT, max_tokens=30, temperature=1.5, ignore_eos=True, seed=first.seed)
    other = llm.generate(TEXT, max_tokens=30, temperature=1.5, ignore_eos=True)
    assert again.token_ids == first.token_ids
    assert other.seed != first.seed
    assert other.token_ids != first.token_ids


def test_the_answer_ends_where_the_context_does(tmp_path: Path) -> None:
    with toy_llm(tmp_path, context=30) as llm:
        completion = llm.generate([1] * 20, max_tokens=1000, ignore_eos=True)
        assert (len(completion.token_ids), completion.finish_reason) == (10, "length")
        with pytest.raises(ContextLengthExceeded, match="too long: it has 30 tokens; the context holds 30"):
            llm.generate([1] * 30)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"), ([], "empty"), (np.array([], int), "empty"), ([VOCAB], f"token id {VOCAB}"),
        ([-1], "token id -1"), ([1.5], "whole number"), ([True, 2], "whole number"), (b"bytes", "not bytes"),
        (7, "not int"), (None, "not NoneType"), ([1, "two"], "whole number"), ("\ud800", "Unicode"),
        (["fine", ""], "prompt 1: .*empty"), ([[1], [1, VOCAB]], "prompt 1: .*token id"),
        (["fine", 3], "prompt 1: .*not int"), ([[1, 2], []], "prompt 1: .*empty"),
    ],
)  # fmt: skip
def test_wrong_prompts_are_refused_before_anything_runs(llm: LLM, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        llm.generate(prompt)
    assert isinstance(llm._engine.runner, ToyRunner)
    assert llm._engine.runner.rows == []


def test_a_prompt_of_a_list_that_is_too_long_is_named(llm: LLM) -> None:
    with pytest.raises(ContextLengthExceeded, match="prompt 1: the prompt is too long: it has 600 tokens"):
        llm.generate([[1], [1] * 600])


@pytest.mark.parametrize("settings", [{"temprature": 1}, {"top_p": 2.0}, {"top_k": 5}, {"stop": ""}])
def test_wrong_settings_are_refused(llm: LLM, settings: Any) -> None:
    for ask in (llm.generate, llm.stream):
        with pytest.raises(SamplingError):
            ask("a", **settings)
    with pytest.raises(SamplingError):
        llm.chat([{"role": "user", "content": "a"}], **settings)


def test_a_failed_request_raises_alone_and_is_reported_in_a_list(tmp_path: Path) -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        hit = batch.sequence_of_row[batch.token_ids == 77]
        logits[np.isin(batch.sequence_of_row[batch.logits_rows], hit)] = np.nan

    with toy_llm(tmp_path, hook=hook) as llm:
        with pytest.raises(NumericError):
            llm.generate([77])
        with pytest.raises(NumericError):
            list(llm.stream([77]))
        first, bad, last = llm.generate([[1], [77], [2]], max_tokens=3)
        assert (bad.finish_reason, type(bad.error), bad.token_ids) == ("error", NumericError, [])
        for completion, prompt in ((first, [1]), (last, [2])):
            assert completion.token_ids == expected_tokens(prompt, SamplingParams(max_tokens=3), VOCAB)


def test_timings_follow_llama_cpp_in_numbers(tmp_path: Path) -> None:
    with toy_llm(tmp_path) as llm:
        request = llm._engine.submit([1] * 50, SamplingParams(max_tokens=11))
        while llm._engine.step():
            pass
        request.started, request.first_token, request.finished_at, request.reused = 10.0, 12.0, 17.0, 30
        assert Timings.of(request, 0.5) == Timings(
            load_s=0.5, prefill_s=2.0, decode_s=5.0, prefill_tokens_per_s=10.0, decode_tokens_per_s=2.0
        )


def test_timings_follow_llama_cpp(tmp_path: Path) -> None:
    with toy_llm(tmp_path) as llm:
        completion = llm.generate([1] * 50, max_tokens=11, ignore_eos=True)
        timings = completion.timings
        assert timings.load_s == 0.25
        assert timings.prefill_s > 0 < timings.decode_s
        assert timings.prefill_tokens_per_s == pytest.approx(50 / timings.prefill_s)
        assert timings.decode_tokens_per_s == pytest.approx(10 / timings.decode_s)
        single = llm.generate([1], max_tokens=1).timings
        assert (single.decode_s < 0.1, single.decode_tokens_per_s) == (True, 0.0)


def test_threads_may_share_a_model(llm: LLM) -> None:
    results: dict[int, list[int]] = {}

    def work(index: int) -> None:
        results[index] = llm.generate([index, 3], max_tokens=15, temperature=1.0, seed=index).token_ids

    threads = [threading.Thread(target=work, args=(index,)) for index in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(10):
        alone = llm.generate([index, 3], max_tokens=15, temperature=1.0, seed=index)
        assert results[index] == alone.token_ids


def test_chat_renders_the_template_and_adds_no_special_token(llm: LLM) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rendered = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    completion = llm.chat(messages, max_tokens=5)
    assert llm.tokenizer.decode(completion.prompt_token_ids) == rendered
    assert completion.prompt_token_ids == llm.render(messages)
    assert completion.token_ids == expected_tokens(llm.render(messages), SamplingParams(max_tokens=5), VOCAB)


def test_a_model_without_a_chat_template_says_so(tmp_path: Path) -> None:
    with toy_llm(tmp_path, chat_template=None) as llm:
        with pytest.raises(TemplateError, match="no chat template"):
            llm.chat([{"role": "user", "content": "Hi"}])
        with pytest.raises(TemplateError, match="no chat template"):
            llm.conversation()


def test_a_closed_model_answers_no_more(tmp_path: Path) -> None:
    llm = toy_llm(tmp_path)
    stream = llm.stream("a", ignore_eos=True)
    next(stream)
    llm.close()
    llm.close()
    assert stream.run().finish_reason == "aborted"
    with pytest.raises(UsageError, match="closed"):
        llm.generate("a")


def test_a_model_says_what_it_is(llm: LLM) -> None:
    llm.ledger.record("weights/Q4_1", 92_000_000)
    llm.ledger.record("kv_cache", 1_000_000)
    text = repr(llm)
    for part in ("toy", "1 layers of 8", "Q4_1", "92.0 MB", "512", "1.0 MB"):
        assert part in text


@pytest.mark.parametrize("value", ["on", "", True, None, [], "INT8"])
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("speculation", "auto, off"),
        ("weights", "auto, bf16, int8, int4"),
        ("kv_cache_type", "bf16, int8, f32"),
    ],
)
def test_a_wrong_choice_is_noticed_before_anything_is_fetched(name: str, known: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} must be one of {known}, not"):
        load("no-such-model-at-all", **{name: value})


@pytest.mark.parametrize("model", [None, 3, b"smollm2"])
def test_a_model_is_named_by_text_or_path(model: Any) -> None:
    with pytest.raises(UsageError, match="text or a path"):
        load(model)


def test_a_path_is_never_taken_for_an_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="no file or folder"):
        load(Path("smollm2"))
