"""Turns, edits, interruptions, and what is computed again."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.llm import LLM
from boli.engine.sampling import SamplingParams
from boli.errors import ContextLengthExceeded, NumericError, PromptError, SamplingError, StorageError
from engine.toy_llm import CHATML, VOCAB, toy_llm
from engine.toy_runner import ToyRunner, expected_tokens


def prefilled(llm: LLM) -> int:
    """Rows of the first step since the last call."""
    assert isinstance(llm._engine.runner, ToyRunner)
    rows = llm._engine.runner.rows[:]
    llm._engine.runner.rows.clear()
    return rows[0]


def test_turns_follow_each_other_and_compute_only_what_is_new(llm: LLM) -> None:
    chat = llm.conversation("Be brief.")
    known = 0
    for turn in range(3):
        stream = chat.send(f"question {turn}", max_tokens=12)
        said = "".join(chunk.text for chunk in stream)
        completion = stream.completion
        assert [message["role"] for message in chat.messages] == ["system"] + ["user", "assistant"] * (
            turn + 1
        )
        assert chat.messages[-1]["content"] == said == completion.text
        assert completion.prompt_token_ids == llm.render(chat.messages[:-1])
        assert (
            completion.token_ids
            == expected_tokens(completion.prompt_token_ids, SamplingParams(max_tokens=12), VOCAB)[
                : len(completion.token_ids)
            ]
        )
        assert prefilled(llm) == len(completion.prompt_token_ids) - completion.reused_tokens
        # All of the former prompt; of the former answer as much as reads the same when encoded again.
        assert completion.reused_tokens >= known // 16 * 16
        known = len(completion.prompt_token_ids)


def test_an_answer_in_plain_bytes_is_reused_to_its_last_full_page(tmp_path: Path) -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        logits[:, 65] = 99.0  # one letter, again and again: encodes as it was generated

    with toy_llm(tmp_path, hook=hook) as llm:
        chat = llm.conversation()
        first = chat.send("a", max_tokens=40).run()
        second = chat.send("b", max_tokens=10).run()
        assert second.reused_tokens == (len(first.prompt_token_ids) + 39) // 16 * 16


def test_undo_takes_back_a_question_and_its_answer(llm: LLM) -> None:
    chat = llm.conversation("System.")
    first = chat.send("one", max_tokens=5).run()
    chat.send("two", max_tokens=5).run()
    assert chat.undo() == "two"
    assert [message["content"] for message in chat.messages] == ["System.", "one", first.text]
    again = chat.send("two again", max_tokens=5).run()
    assert again.reused_tokens >= len(first.prompt_token_ids) // 16 * 16 > 0
    assert [chat.undo(), chat.undo(), chat.undo()] == ["two again", "one", None]
    assert [message["role"] for message in chat.messages] == ["system"]


def test_the_system_message_is_set_replaced_and_taken_away(llm: LLM) -> None:
    chat = llm.conversation()
    chat.send("one", max_tokens=3).run()
    chat.set_system("Be kind.")
    assert chat.messages[0] == {"role": "system", "content": "Be kind."}
    completion = chat.send("two", max_tokens=3).run()
    assert (
        completion.token_ids
        == expected_tokens(llm.render(chat.messages[:-1]), SamplingParams(max_tokens=3), VOCAB)[
            : len(completion.token_ids)
        ]
    )
    chat.set_system("Be brief.")
    assert [message["role"] for message in chat.messages].count("system") == 1
    chat.set_system(None)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2


def test_messages_may_be_edited(llm: LLM) -> None:
    chat = llm.conversation()
    chat.send("one", max_tokens=4).run()
    chat.messages[1]["content"] = "something else"
    chat.messages.insert(0, {"role": "system", "content": "Later thought."})
    expected = llm.render([*chat.messages, {"role": "user", "content": "two"}])
    assert chat.send("two", max_tokens=4).run().prompt_token_ids == expected


def test_a_template_that_rewrites_history_stays_right(tmp_path: Path) -> None:
    """As those do that drop the thinking of earlier answers."""
    forgetful = CHATML.replace("{{ message.content }}", "{{ message.content if loop.last else 'forgotten' }}")
    with toy_llm(tmp_path, chat_template=forgetful) as llm:
        chat = llm.conversation()
        for turn in range(3):
            completion = chat.send(f"question {turn}", max_tokens=6).run()
            assert (
                completion.token_ids
                == expected_tokens(llm.render(chat.messages[:-1]), SamplingParams(max_tokens=6), VOCAB)[
                    : len(completion.token_ids)
                ]
            )


def test_what_was_said_before_an_interruption_stays(tmp_path: Path) -> None:
    strike = [0]

    def hook(batch: Batch, logits: Float32) -> None:
        strike[0] -= 1
        if strike[0] == 0:
            raise KeyboardInterrupt

    with toy_llm(tmp_path, hook=hook) as llm:
        chat = llm.conversation()
        strike[0] = 8
        seen: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            seen.extend(chunk.text for chunk in chat.send("tell me", ignore_eos=True))
        assert chat.messages[-1] == {"role": "assistant", "content": "".join(seen)}
        assert seen
        completion = chat.send("go on", max_tokens=5).run()
        assert completion.reused_tokens > 0
        assert (
            completion.token_ids
            == expected_tokens(llm.render(chat.messages[:-1]), SamplingParams(max_tokens=5), VOCAB)[
                : len(completion.token_ids)
            ]
        )


def test_a_question_without_any_answer_goes_with_the_interruption(tmp_path: Path) -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        raise KeyboardInterrupt

    with toy_llm(tmp_path, hook=hook) as llm:
        chat = llm.conversation("System.")
        with pytest.raises(KeyboardInterrupt):
            list(chat.send("tell me"))
        assert [message["role"] for message in chat.messages] == ["system"]


def test_the_next_question_ends_an_answer_that_was_left_open(llm: LLM) -> None:
    chat = llm.conversation()
    for chunk in chat.send("one", max_tokens=400, ignore_eos=True):
        if chunk.text:
            break
    chat.send("two", max_tokens=3).run()
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert len(llm._engine.scheduler.running) == 0


def test_an_error_takes_the_question_back(tmp_path: Path) -> None:
    broken = [False]

    def hook(batch: Batch, logits: Float32) -> None:
        if broken[0]:
            logits[:] = np.nan

    with toy_llm(tmp_path, hook=hook) as llm:
        chat = llm.conversation()
        chat.send("one", max_tokens=3).run()
        broken[0] = True
        with pytest.raises(NumericError):
            list(chat.send("two"))
        assert len(chat.messages) == 2
        broken[0] = False
        completion = chat.send("two", max_tokens=3).run()
        assert completion.error is None
        assert len(chat.messages) == 4


def test_what_cannot_be_sent_changes_nothing(tmp_path: Path) -> None:
    with toy_llm(tmp_path, context=64) as llm:
        chat = llm.conversation()
        with pytest.raises(PromptError):
            chat.send("")
        with pytest.raises(PromptError):
            chat.send("\ud800")
        with pytest.raises(SamplingError):
            chat.send("hi", top_p=9.0)
        with pytest.raises(ContextLengthExceeded):
            chat.send("long " * 100)
        assert chat.messages == []
        assert chat.send("hi", max_tokens=2).run().finish_reason in ("stop", "length")


def test_saving_writes_json_in_one_piece(llm: LLM, tmp_path: Path) -> None:
    chat = llm.conversation("系统")
    chat.send("你好", max_tokens=4).run()
    target = tmp_path / "chats" / "mine.json"
    with pytest.raises(StorageError, match=r"mine\.json"):
        chat.save(target)
    target.parent.mkdir()
    target.write_text("the old file")
    chat.save(str(target))
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document == {"model": "toy", "messages": chat.messages}
    assert "你好" in target.read_text(encoding="utf-8")
    assert [path.name for path in target.parent.iterdir()] == ["mine.json"]


def test_a_save_that_fails_leaves_the_old_file(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = llm.conversation("old")
    target = tmp_path / "chats" / "mine.json"
    target.parent.mkdir()
    chat.save(target)
    before = target.read_bytes()
    chat.set_system("new")

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match="could not be written") as caught:
        chat.save(target)
    assert caught.value.cause == "No space left on device"
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["mine.json"]


def test_a_saved_conversation_goes_on(llm: LLM, tmp_path: Path) -> None:
    chat = llm.conversation("System.")
    chat.send("one", max_tokens=4).run()
    chat.save(tmp_path / "chat.json")
    expected = chat.send("two", max_tokens=4).run()
    other = llm.conversation()
    other.messages = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))["messages"]
    assert other.send("two", max_tokens=4).run().token_ids == expected.token_ids


def test_a_conversation_that_is_dropped_ends_its_answer(llm: LLM) -> None:
    chat = llm.conversation()
    next(chat.send("one", max_tokens=400, ignore_eos=True))
    assert llm._engine.scheduler.pool.used > 0
    del chat
    gc.collect()
    assert not llm._engine.step(), "a finalizer's wish is the first thing that a step fulfils"
    assert llm._engine.scheduler.pool.used == 0


def test_a_closed_conversation_ends_its_answer(llm: LLM) -> None:
    chat = llm.conversation()
    next(chat.send("one", max_tokens=400, ignore_eos=True))
    chat.close()
    chat.close()
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    assert not llm._engine.step()


def test_conversations_take_turns_on_few_pages(tmp_path: Path) -> None:
    with toy_llm(tmp_path, context=256, num_pages=20) as llm:
        chats = [llm.conversation(f"You are number {index}.") for index in range(4)]
        for turn in range(3):
            for chat in chats:
                completion = chat.send(f"question {turn}", max_tokens=10).run()
                assert (
                    completion.token_ids
                    == expected_tokens(llm.render(chat.messages[:-1]), SamplingParams(max_tokens=10), VOCAB)[
                        : len(completion.token_ids)
                    ]
                )
        assert llm._engine.scheduler.pool.used == 0
