"""What a run keeps: enough to repeat it, little, and readable whoever wrote it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.constraint import Source
from boli.engine.llm import LLM
from boli.engine.record import RunRecord, keep_last, last_run, load_record, save_record
from boli.errors import CorruptFile, ModelNotFound, StorageError
from engine.toy_llm import TEXT, toy_llm

SETTINGS: Any = {
    "max_tokens": 7, "temperature": 0.8, "top_p": 0.9, "stop": ["zzz"], "logit_bias": {5: -1.5, 300: 0.0},
    "ignore_eos": True,
}  # fmt: skip


@pytest.fixture
def record(llm: LLM) -> RunRecord:
    settings = SETTINGS | {"logit_bias": {5: -1.5}}
    return llm.generate(TEXT, **settings).record


def test_it_holds_the_run(llm: LLM) -> None:
    completion = llm.generate(TEXT, logprobs=2, max_tokens=6, temperature=1.0)
    record = completion.record
    assert record.token_ids == (*completion.prompt_token_ids, *completion.token_ids)
    assert record.generated == tuple(completion.token_ids)
    assert (record.seed, record.text, record.messages) == (completion.seed, TEXT, None)
    assert (record.answer, record.finish_reason) == (completion.text, completion.finish_reason)
    assert completion.logprobs is not None
    assert record.logprobs == tuple(entry.logprob for entry in completion.logprobs)
    assert record.model == llm.identity
    assert record.timings["load_s"] == llm.load_seconds
    assert llm.generate([1, 2], max_tokens=2).record.text is None


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"logprobs": 1}, {"repetition_penalty": 1.5}])
def test_the_logits_are_those_that_the_model_gave(tmp_path: Path, settings: Any) -> None:
    given: list[Float32] = []

    def hook(batch: Batch, logits: Float32) -> None:
        given.extend(np.array(row) for row in logits)

    with toy_llm(tmp_path, hook=hook) as llm:
        record = llm.generate([1, 2, 3], max_tokens=5, ignore_eos=True, **settings).record
    expected = [float(row[token]) for row, token in zip(given, record.generated, strict=True)]
    assert list(record.logits) == expected
    assert all(isinstance(value, float) for value in record.logits)


def test_each_of_a_batch_has_its_own(llm: LLM) -> None:
    prompts: Any = [TEXT, [1, 2]]
    answers: Any = llm.generate(prompts, max_tokens=3, ignore_eos=True)
    assert [each.record.text for each in answers] == [TEXT, None]
    assert [each.record.generated for each in answers] == [tuple(each.token_ids) for each in answers]


def test_a_conversation_keeps_its_messages(llm: LLM) -> None:
    messages = [{"role": "user", "content": "the thing"}]
    completion = llm.chat(messages, max_tokens=3)
    assert completion.record.messages == tuple(messages)
    conversation = llm.conversation("be brief")
    with conversation.send("the thing", max_tokens=3, ignore_eos=True) as stream:
        stream.run()
    kept = stream.completion.record.messages
    assert kept == ({"role": "system", "content": "be brief"}, {"role": "user", "content": "the thing"})
    conversation.messages[1]["content"] = "edited later"
    assert kept[1]["content"] == "the thing"


def test_what_is_loaded_is_what_was_saved(record: RunRecord, llm: LLM, tmp_path: Path) -> None:
    for each in (record, llm.chat([{"role": "user", "content": "x"}], max_tokens=2, logprobs=0).record):
        save_record(each, tmp_path / "run.json")
        assert load_record(tmp_path / "run.json") == each
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600


def test_what_the_answer_had_to_be_is_kept(record: RunRecord, tmp_path: Path) -> None:
    assert record.constraint is None
    held = replace(record, constraint=Source("regex", "[a-ü]+"))
    save_record(held, tmp_path / "run.json")
    assert load_record(tmp_path / "run.json") == held
    older = json.loads(json.dumps(record.to_json()))
    del older["constraint"]
    assert RunRecord.from_json(older) == record
    for wrong in ({"kind": "perl", "text": "a"}, {"kind": "lark"}, {"kind": "lark", "text": "a" * (1 << 19)}):
        with pytest.raises(CorruptFile):
            RunRecord.from_json(older | {"constraint": wrong})


def test_an_impossible_token_has_no_number_in_json(record: RunRecord) -> None:
    document = record.to_json()
    document["logprobs"] = [None] * len(record.logits)
    back = RunRecord.from_json(json.loads(json.dumps(document)))
    assert back.logprobs == (-np.inf,) * len(record.logits)
    assert back.to_json()["logprobs"] == document["logprobs"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": "boli-run/2"}, "its schema is 'boli-run/2'"),
        ({"token_ids": "x"}, "'token_ids'"), ({"token_ids": [1, "2"]}, "no list of numbers"),
        ({"token_ids": [1, True]}, "no list of numbers"), ({"token_ids": [-1] * 40}, "no prompt with an"),
        ({"token_ids": [1 << 40] * 40}, "no prompt with an answer"), ({"token_ids": []}, "no prompt"),
        ({"prompt_length": 0}, "no prompt"), ({"prompt_length": 10**9}, "no prompt"),
        ({"logits": []}, "one logit for each"), ({"logprobs": [0.5]}, "one logit for each"),
        ({"messages": [5]}, "no list of messages"), ({"finish_reason": "because"}, "no reason"),
        ({"model": {}}, "'name' is missing"), ({"model": {"name": 5}}, "'name' is missing or no str"),
        ({"sampling": {"heat": 1}}, "no sampling setting"), ({"sampling": {"top_p": 7}}, "top_p must be"),
        ({"text": 5}, "'text'"), ({"seed": None}, "'seed'"), ({"reused_tokens": "many"}, "'reused_tokens'"),
        ({"timings": {"load_s": "soon"}}, "'load_s' is no number"), ({"timings": 5}, "'timings'"),
    ],
)  # fmt: skip
def test_what_was_edited_is_refused(record: RunRecord, change: dict[str, Any], why: str) -> None:
    with pytest.raises(CorruptFile, match="cannot be read as a run") as caught:
        RunRecord.from_json(json.loads(json.dumps(record.to_json() | change)), "run.json")
    assert why in caught.value.cause
    for key in record.to_json():
        document = record.to_json()
        del document[key]
        if key not in ("text", "messages", "logprobs", "constraint"):  # absent is none of them
            with pytest.raises(CorruptFile):
                RunRecord.from_json(document)


def test_files_that_are_no_run(record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    whole = record.to_json()
    for value in ("1e999", "1" + "0" * 400):
        text = json.dumps(whole | {"logits": ["?"] * len(record.logits)}).replace('"?"', value)
        path.write_text(text)
        with pytest.raises(CorruptFile, match="cannot be read"):
            load_record(path)
    for text in ("", "{", "5", "[]", '{"schema": "boli-run/1"}', "[" * 50_000, '{"seed": Infinity}'):
        path.write_text(text)
        with pytest.raises(CorruptFile):
            load_record(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(CorruptFile):
        load_record(path)
    with pytest.raises(ModelNotFound):
        load_record(tmp_path)
    monkeypatch.setattr("boli.engine.record.LARGEST_FILE", 10)
    path.write_text(" " * 11)
    with pytest.raises(CorruptFile, match="too large"):
        load_record(path)


def test_the_last_run_is_kept_for_the_owner_alone(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("BOLI_KEEP_RUNS", "0")
    keep_last(record)
    assert not last_run().exists()
    monkeypatch.delenv("BOLI_KEEP_RUNS")
    keep_last(record)
    assert load_record(last_run()) == record
    assert last_run().stat().st_mode & 0o777 == 0o600
    assert last_run().parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="there can be no folder"):
        keep_last(record)


@pytest.mark.skipif(not Path("/dev/full").exists() or os.name != "posix", reason="needs a disk that is full")
def test_a_full_disk_leaves_the_run_before(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    path = tmp_path / "run.json"
    save_record(record, path)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="the run could not be written"):
        save_record(record, path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob(".run*")) == []
