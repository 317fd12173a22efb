"""`boli chat`, with the default model: at a terminal, from a pipe, and for one question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.shell import Here, Terminal, boli

pytestmark = pytest.mark.model

GREEDY = ("--temperature", "0", "--max-tokens", "12")


@pytest.fixture(autouse=True)
def model(smollm2: str) -> str:
    return smollm2


def test_one_question_for_scripts(here: Here) -> None:
    ended = here("chat", "--once", "Name three primes.", *GREEDY, "--json")
    assert ended.code == 0
    document = ended.document
    assert [message["role"] for message in document["messages"]] == ["user", "assistant"]
    assert document["messages"][1]["content"] == document["text"]
    rendered = here("tokenize", "--chat", "Name three primes.", "--json").document
    assert document["prompt_tokens"] == [token["id"] for token in rendered["tokens"]]
    assert here("chat", "--once", "Name three primes.", *GREEDY).out == document["text"] + "\n"
    assert here("chat", "--once", "-", *GREEDY, stdin=b"Name three primes.\n").out == document["text"] + "\n"


def test_a_system_message_and_a_seed(here: Here) -> None:
    options = ("--system", "你是一只猫。", "--max-tokens", "8", "--seed", "3", "--json")
    first = here("chat", "--once", "你好", *options).document
    assert first["messages"][0] == {"role": "system", "content": "你是一只猫。"}
    assert first["seed"] == 3
    assert here("chat", "--once", "你好", *options).document["tokens"] == first["tokens"]


def test_each_line_of_a_pipe_is_a_turn(tmp_path: Path) -> None:
    saved = tmp_path / "对话.json"
    lines = f"Hi!\n\nWho are you? \\\nIn short.\n/save {saved}\n/undo\n/quit\nnever asked\n"
    ended = boli("chat", *GREEDY, stdin=lines.encode())
    assert ended.code == 0
    document = json.loads(saved.read_text())
    assert [message["role"] for message in document["messages"]] == ["user", "assistant"] * 2
    assert document["messages"][2]["content"] == "Who are you? \nIn short."
    answers = [message["content"] for message in document["messages"] if message["role"] == "assistant"]
    assert ended.out == "".join(answer + "\n" for answer in answers)
    assert "saved 4 messages" in ended.err
    assert 'took back "Who are you? \\nIn short."' in ended.err


def test_an_error_in_a_pipe_ends_it(here: Here) -> None:
    ended = here("chat", *GREEDY, stdin=b"/sav x\nHi\n")
    assert (ended.code, ended.out) == (2, "")
    assert "no command /sav" in ended.err
    assert "/save" in ended.err
    ended = here("chat", *GREEDY, stdin=b"a\xffb\n")
    assert ended.code == 2
    assert "byte 0xff at position 1" in ended.err


def test_a_conversation_at_a_terminal(tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    with Terminal("chat", *GREEDY) as terminal:
        terminal.until("Ctrl-D leaves")
        terminal.type("你好，你是谁？\n")
        terminal.until("12 tokens, ", 1)
        terminal.type("Name a colour.\n")
        terminal.until("12 tokens, ", 2)
        terminal.until(" known)")  # the second turn computes only what is new
        terminal.type("/undo\n")
        terminal.until('took back "Name a colour."')
        terminal.type("/system Answer with one word.\n")
        terminal.until('system message: "Answer with one word."')
        terminal.type("/frobnicate\n")
        terminal.until("no command /frobnicate")
        terminal.type("/help\n")
        terminal.until("/save FILE")
        terminal.type(f"/save {saved}\n")
        terminal.until("saved 3 messages")
        terminal.type(f"/save {saved}\n")  # its own file may be written again
        terminal.until("saved 3 messages", 2)
        terminal.type(f"/save {__file__}\n")
        terminal.until("exists already")
        terminal.type("/quit\n")
        assert terminal.end() == 0
    roles = [message["role"] for message in json.loads(saved.read_text())["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert "你好，你是谁？" in terminal.text


def test_ctrl_c_stops_an_answer_and_leaves_at_the_prompt() -> None:
    with Terminal("chat", "--temperature", "0", "--max-tokens", "2000") as terminal:
        terminal.until("> ")
        terminal.type("Write a very long story about a dragon.\n")
        terminal.until("dragon", 2)
        terminal.type("\x03")
        terminal.until("stopped; what has been said stays")
        terminal.type("/undo\n")
        terminal.until('took back "Write a very long story about a dragon."')
        assert terminal.interrupt() == 130
    assert "Traceback" not in terminal.text


def test_ctrl_d_leaves() -> None:
    with Terminal("chat", *GREEDY) as terminal:
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_lines_can_be_edited_and_come_back() -> None:
    with Terminal("chat", *GREEDY) as terminal:
        terminal.until("leaves.\n> ")  # before that the terminal itself would edit
        terminal.type("/undo 我爱北\x7f\n")
        terminal.until("nothing to take back\n> ", 1)
        terminal.type("\x1b[A\n")  # the line before
        terminal.until("nothing to take back\n> ", 2)
        terminal.type("/system 我爱北\x7f京\n")  # one key takes away one Chinese character
        terminal.until('system message: "我爱京"\n> ')
        terminal.type("/quit\n")
        assert terminal.end() == 0


def test_a_model_without_a_template_says_so(here: Here, tmp_path: Path) -> None:
    ended = here("tokenize", "--chat", "Hi", "--model", str(tmp_path), "--json")
    assert ended.code == 1
    assert ended.document["error"]["remedy"]
