"""`boli tokenize`, with the default model's own tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from boli.cli.tokenize import parse_messages
from boli.errors import PromptError
from cli.shell import Here, lines_wider_than

pytestmark = pytest.mark.model

MIXED = "Hello 我爱北京天安门, naïve 👍🏽\tend"


@pytest.fixture(autouse=True)
def model(smollm2: str) -> str:
    return smollm2


def tokens(here: Here, *arguments: str, stdin: bytes = b"") -> Any:
    ended = here("tokenize", *arguments, "--json", stdin=stdin)
    assert ended.code == 0, ended.err
    return ended.document


def test_bytes_and_spans_give_the_text_back(here: Here) -> None:
    document = tokens(here, MIXED)
    assert document["model"] == "smollm2"
    assert document["count"] == len(document["tokens"])
    assert document["warnings"] == []
    assert bytes.fromhex("".join(token["bytes"] for token in document["tokens"])).decode() == MIXED
    end = 0
    for token in document["tokens"]:
        assert set(token) == {"id", "piece", "start", "end", "bytes", "special"}
        assert token["start"] <= end <= token["end"]
        end = token["end"]
    assert end == len(MIXED)


def test_the_table_has_a_row_for_each_token(here: Here) -> None:
    document = tokens(here, MIXED)
    header, *lines = here("tokenize", MIXED).out.splitlines()
    assert header.split() == ["#", "id", "piece", "span", "text"]
    assert len(lines) == document["count"]
    for index, (line, token) in enumerate(zip(lines, document["tokens"], strict=True)):
        assert line.split()[:2] == [str(index), str(token["id"])]
        assert f"{token['start']}:{token['end']}" in line
    assert '"Hello"' in lines[0]
    assert any("e6 88 91" in line or "20 e6" in line for line in lines)  # a part of a character


@pytest.mark.parametrize("columns", ["40", "80"])
def test_the_table_fits_the_terminal(here: Here, columns: str) -> None:
    out = here("tokenize", "--chat", MIXED, COLUMNS=columns).out
    assert not lines_wider_than(out.partition(" #")[2], int(columns))


def test_stdin_is_taken_as_it_is(here: Here) -> None:
    assert tokens(here, "-", stdin="我爱\n".encode())["tokens"] == tokens(here, "我爱\n")["tokens"]
    assert tokens(here, "-", stdin=b"a\r\n")["tokens"][-1]["end"] == 3


def test_a_special_token_in_the_text_is_warned_of(here: Here) -> None:
    document = tokens(here, "Hi<|im_end|>")
    assert document["tokens"][-1]["special"]
    (warning,) = document["warnings"]
    assert "<|im_end|>" in warning
    ended = here("tokenize", "Hi<|im_end|>")
    assert ended.err.startswith("warning: ")
    assert "<|im_end|>" in ended.err
    assert "warning" not in ended.out


def test_chat_shows_which_message_each_token_comes_from(here: Here) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    document = tokens(here, "--chat", json.dumps(messages, ensure_ascii=False))
    assert document["messages"] == messages
    assert document["rendered"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    for index, message in enumerate(messages):
        own = [token["bytes"] for token in document["tokens"] if token["message"] == index]
        assert bytes.fromhex("".join(own)).decode() == message["content"]
    assert all(token["message"] is None for token in document["tokens"] if token["special"])
    out = here("tokenize", "--chat", json.dumps(messages, ensure_ascii=False)).out
    assert out.startswith(document["rendered"].rstrip("\n") + "\n\n")
    assert "1 user" in out
    assert "template" in out


def test_a_plain_text_is_what_a_user_says(here: Here) -> None:
    assert tokens(here, "--chat", "[1] is a list")["messages"] == [
        {"role": "user", "content": "[1] is a list"}
    ]


def test_chat_warns_of_a_special_token_that_a_user_typed(here: Here) -> None:
    document = tokens(here, "--chat", "Hi <|im_start|>system")
    (warning,) = document["warnings"]
    assert "message 0" in warning
    assert "<|im_start|>" in warning


@pytest.mark.parametrize(
    "text", ['[{"role": "user"', '[{"content": "x"}]', '[{"role": 1}]', '[{"role": "user"}, 3]']
)
def test_a_broken_list_of_messages_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        parse_messages(text)


def test_a_message_without_content_is_an_error_of_the_template_or_text(here: Here) -> None:
    ended = here("tokenize", "--chat", '[{"role": "user"}]', "--json")
    assert ended.code in {0, 1}
    assert "nobody expected" not in ended.err


def test_only_the_tokenizer_is_loaded(smollm2: str) -> None:
    code = (
        "import sys; from boli.cli.app import run; code = run(['tokenize', 'Hi', '--model', sys.argv[1]])\n"
        "assert not {'numba', 'llvmlite', 'boli.cpu.runner'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, smollm2], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
