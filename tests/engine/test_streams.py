"""Text while it comes: pieces, stop strings, and the many ways to end."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.llm import LLM
from boli.errors import (
    PromptError,
    UsageError,
)
from engine.toy_llm import END_OF_TEXT, IM_END, TEXT, scripted, toy_llm


def test_a_stream_gives_the_same_in_pieces(llm: LLM) -> None:
    settings: dict[str, Any] = {
        "max_tokens": 60,
        "temperature": 1.0,
        "seed": 9,
        "logprobs": 2,
        "ignore_eos": True,
    }
    whole = llm.generate(TEXT, **settings)
    stream = llm.stream(TEXT, **settings)
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert [entry for chunk in chunks for entry in chunk.logprobs or ()] == whole.logprobs
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.text for chunk in chunks[:-1]), "a chunk without text is not worth sending"
    assert len(chunks) > 10
    assert stream.completion.text == whole.text
    assert list(stream) == []


def test_an_end_token_ends_the_text_and_is_among_the_tokens(tmp_path: Path) -> None:
    with scripted(tmp_path, [5, 6, IM_END, 7]) as llm:
        completion = llm.generate([0], max_tokens=10)
        assert (completion.token_ids, completion.finish_reason) == ([5, 6, IM_END], "stop")
        assert completion.text == llm.tokenizer.decode([5, 6])
        onward = llm.generate([0], max_tokens=5, ignore_eos=True)
        assert (onward.token_ids, onward.finish_reason) == ([5, 6, IM_END, 7, 5], "length")
        assert onward.text == llm.tokenizer.decode([5, 6, 7, 5])


@pytest.mark.parametrize(
    ("said", "stop", "expected"),
    [
        ("say the end now", ["the end"], "say "),
        ("say the end now", ["end", "the end"], "say "),
        ("say the end", ["say"], ""),
        ("aaab", ["aab"], "a"),
        ("什么都没有。完", ["。"], "什么都没有"),
        ("one\ntwo", ["\r\n", "\n"], "one"),
        ("no such thing", ["thong", "thing!"], "no such thing"),
        ("ends in th", ["that"], "ends in th"),
    ],
)
def test_stop_strings(tmp_path: Path, said: str, stop: list[str], expected: str) -> None:
    with toy_llm(tmp_path) as plain:
        script = [*plain.tokenizer.encode(said), END_OF_TEXT, IM_END]
    with scripted(tmp_path, script) as llm:
        completion = llm.generate([0], stop=stop)
        assert completion.text == expected
        assert completion.finish_reason == "stop"
        pieces = list(llm.stream([0], stop=stop))
        assert "".join(chunk.text for chunk in pieces) == expected
        assert pieces[-1].finish_reason == "stop"
        if expected != said:
            decoded = llm.tokenizer.decode(completion.token_ids)
            assert any(decoded.rstrip().endswith(text.rstrip()) for text in stop), "it stops with the token"


@pytest.mark.parametrize("depth", [1, 3, 20])
@pytest.mark.parametrize("stop", [["end"], ["he"], ["now. say"], ["nothing of it"]])
def test_guesses_are_cut_where_a_stop_string_ends(tmp_path: Path, stop: list[str], depth: int) -> None:
    with toy_llm(tmp_path) as plain:
        script = plain.tokenizer.encode("say the end now. ")
    answers = []
    for guesses in (None, depth):
        with scripted(tmp_path, script, depth=guesses) as llm:
            completion = llm.generate([0, *script], stop=stop, max_tokens=40)
            chunks = list(llm.stream([0, *script], stop=stop, max_tokens=40))
        assert "".join(chunk.text for chunk in chunks) == completion.text
        assert [token for chunk in chunks for token in chunk.token_ids] == completion.token_ids
        answers.append((completion.text, completion.token_ids, completion.finish_reason))
    assert answers[0] == answers[1]
    assert completion.drafted_tokens >= completion.accepted_tokens > 0


def test_a_character_cut_by_max_tokens_is_marked(tmp_path: Path) -> None:
    with toy_llm(tmp_path) as plain:
        script = plain.tokenizer.encode("a🙂")
    with scripted(tmp_path, script) as llm:
        assert llm.generate([0], max_tokens=4).text == "a\ufffd"
        assert llm.generate([0], max_tokens=5).text == "a🙂"
        assert [chunk.text for chunk in llm.stream([0], max_tokens=4)] == ["a", "\ufffd"]


def test_a_character_cut_by_the_reader_is_left_out(tmp_path: Path) -> None:
    with toy_llm(tmp_path) as plain:
        script = plain.tokenizer.encode("a🙂")
    with scripted(tmp_path, script) as llm, llm.stream([0]) as stream:
        assert next(stream).text == "a"
        llm._engine.step()
        stream.close()
        assert (stream.completion.text, stream.completion.token_ids) == ("a", script[:2])


def test_a_stream_takes_one_prompt(llm: LLM) -> None:
    with pytest.raises(PromptError, match="one prompt"):
        llm.stream(["a", "b"])  # type: ignore[list-item]


def test_a_closed_stream_ends_its_request(llm: LLM) -> None:
    stream = llm.stream(TEXT, max_tokens=400, ignore_eos=True)
    first = next(stream)
    assert llm._engine.scheduler.pool.used > 0
    stream.close()
    stream.close()
    assert llm._engine.scheduler.pool.used == 0
    assert stream.completion.finish_reason == "aborted"
    assert stream.completion.text.startswith(first.text)
    assert list(stream) == []


def test_with_and_garbage_collection_end_requests_too(llm: LLM) -> None:
    with llm.stream(TEXT, max_tokens=400, ignore_eos=True) as stream:
        next(stream)
    assert llm._engine.scheduler.pool.used == 0
    for _chunk in llm.stream(TEXT, max_tokens=400, ignore_eos=True):
        break
    del _chunk
    gc.collect()
    assert not llm._engine.step(), "a finalizer's wish is the first thing that a step fulfils"
    assert llm._engine.scheduler.pool.used == 0


def test_the_completion_of_a_stream_is_there_when_it_ended(llm: LLM) -> None:
    with llm.stream(TEXT) as stream, pytest.raises(UsageError, match="not ended"):
        _ = stream.completion


@pytest.mark.parametrize("ask", ["generate", "several", "stream", "chat"])
def test_ctrl_c_ends_the_request_and_goes_through(tmp_path: Path, ask: str) -> None:
    steps = [0]

    def hook(batch: Batch, logits: Float32) -> None:
        steps[0] += 1
        if steps[0] == 5:
            raise KeyboardInterrupt

    with toy_llm(tmp_path, hook=hook) as llm:
        with pytest.raises(KeyboardInterrupt):
            if ask == "generate":
                llm.generate("a", ignore_eos=True)
            elif ask == "several":
                llm.generate(["a", "b", "c"], ignore_eos=True)
            elif ask == "chat":
                llm.chat([{"role": "user", "content": "a"}], ignore_eos=True)
            else:
                list(llm.stream("a", ignore_eos=True))
        assert llm._engine.scheduler.pool.used == 0
        assert not llm._engine.step()
        assert llm.generate("a", max_tokens=3, ignore_eos=True).finish_reason == "length"


def test_ctrl_c_before_there_is_a_stream_leaves_no_request_behind(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request has been submitted; nobody will ever read it."""

    def strike(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("boli.engine.llm.Stream", strike)
        with pytest.raises(KeyboardInterrupt):
            llm.stream("a", max_tokens=400, ignore_eos=True)
    assert llm._engine.step()
    assert not llm._engine.step()


def test_two_streams_of_one_thread_advance_together(llm: LLM) -> None:
    settings: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}
    expected = llm.generate(["a", "b"], **settings)
    with llm.stream("a", **settings) as first, llm.stream("b", **settings) as second:
        for _ in range(3):
            next(first)
            next(second)
        second_text, first_text = second.run().text, first.run().text
    assert [first_text, second_text] == [completion.text for completion in expected]
