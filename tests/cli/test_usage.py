"""Wrong command lines: exit code 2, the name of what is wrong, and the nearest that is right."""

from __future__ import annotations

import pytest

from cli.shell import Here, boli

WRONG = [
    (["genrate", "x"], "no command 'boli genrate'", "'generate'"),
    (["models", "sho", "x"], "no command 'boli models sho'", "'show'"),
    (["generate", "x", "--tempratur", "1"], "no option '--tempratur'", "'--temperature'"),
    (["generate", "x", "--max_tokens", "1"], "no option '--max_tokens'", "'--max-tokens'"),
    (["chat", "--onse", "x"], "no option '--onse'", "'--once'"),
    (["tokenize", "x", "--chatt"], "no option '--chatt'", "'--chat'"),
    (["doctor", "--jsn"], "no option '--jsn'", "'--json'"),
    (["--versoin"], "no option '--versoin'", "'--version'"),
    (["generate", "-5 + 3 ="], "no option '-5'", "put -- before a text"),
    (["generate", "The", "capital", "of"], "unexpected extra argument", "in quotes"),
    (["generate"], "missing argument 'PROMPT'", "--help"),
    (["generate", "x", "--stop"], "'--stop' requires an argument", "--help"),
    (["generate", "x", "--temperature", "warm"], "'--temperature'", "--help"),
    (["generate", "x", "--threads", "0"], "'--threads'", "--help"),
    (["generate", "x", "--context", "-1"], "'--context'", "--help"),
    (["generate", "x", "--weights", "int9"], "'auto', 'bf16', 'int8', 'int4'", "--help"),
    (["chat", "--kv-cache-type", "f16"], "'bf16', 'int8', 'f32'", "--help"),
    (["generate", "x", "--speculation", "on"], "'auto', 'off'", "--help"),
    (["chat", "--json"], "--json needs --once", "--once"),
    (["models", "--json", "show", "x"], "--json belongs behind the command", "--help"),
]


@pytest.mark.parametrize(("arguments", "what", "remedy"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_command_line_names_itself_and_the_nearest(
    here: Here, arguments: list[str], what: str, remedy: str
) -> None:
    ended = here(*arguments)
    assert ended.code == 2
    first, *rest = ended.err.splitlines()
    assert first.startswith("error: ")
    assert what in first
    assert remedy in " ".join(rest)
    assert "Traceback" not in ended.err
    if "--json" not in arguments:
        assert ended.out == ""


CONTRADICTIONS = [
    ["--top-k", "5"],
    ["--top-p", "0.9"],
    ["--temperature", "-1"],
    ["--temperature", "nan"],
    ["--temperature", "inf"],
    ["--temperature", "1", "--top-p", "0"],
    ["--temperature", "1", "--top-p", "1.5"],
    ["--temperature", "1", "--min-p", "2"],
    ["--repetition-penalty", "0"],
    ["--presence-penalty", "9"],
    ["--max-tokens", "0"],
    ["--seed", "-1"],
    ["--stop", ""],
    ["--logprobs", "-1"],
]


@pytest.mark.parametrize("options", CONTRADICTIONS, ids=" ".join)
def test_senseless_sampling_is_refused_before_a_model_is_looked_for(here: Here, options: list[str]) -> None:
    ended = here("generate", "x", "--model", "no-such-model", "--json", *options)
    assert ended.code == 2
    error = ended.document["error"]
    assert error["code"] == "sampling"
    name = options[-2].removeprefix("--").replace("-", "_")
    assert name in error["message"] or name in error["message"].replace(" string", "")


def test_chat_without_temperature_does_not_contradict_its_own_default(here: Here) -> None:
    # Its default top-p would contradict temperature 0; the model is what is missing.
    ended = here("chat", "--once", "x", "--temperature", "0", "--model", "./no-such-model")
    assert ended.code == 1
    assert "no-such-model" in ended.err
    ended = here("chat", "--once", "x", "--temperature", "0", "--top-p", "0.9", "--model", "./no-such-model")
    assert ended.code == 2
    assert "top_p" in ended.err


EMPTY = [["generate", ""], ["generate", "-"], ["tokenize", ""], ["tokenize", "-"], ["chat", "--once", ""]]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_text_is_refused_before_a_model_is_looked_for(here: Here, arguments: list[str]) -> None:
    ended = here(*arguments, "--model", "no-such-model", "--json")
    assert ended.code == 2
    assert ended.document["error"]["code"] == "prompt"
    assert "is empty" in ended.err


@pytest.mark.parametrize(
    "arguments", [["generate", "-"], ["tokenize", "-"], ["chat", "--once", "-"]], ids=" ".join
)
def test_stdin_that_is_not_utf8_is_refused_with_the_place(here: Here, arguments: list[str]) -> None:
    text = "我爱北京".encode() + "天安门".encode("gb18030")
    ended = here(*arguments, "--model", "no-such-model", "--json", stdin=text)
    assert ended.code == 2
    error = ended.document["error"]
    assert error["code"] == "prompt"
    assert "stdin is not UTF-8" in error["message"]
    assert "position 12" in error["cause"]
    assert "0xcc" in error["cause"]


def test_an_argument_that_is_not_utf8_is_refused_with_the_place() -> None:
    ended = boli("generate", b"ab\xff", "--model", "no-such-model")
    assert ended.code == 2
    assert "byte 0xff at position 2" in ended.err


def test_endless_stdin_is_refused(here: Here) -> None:
    ended = here("generate", "-", "--model", "no-such-model", stdin=b"a" * (16 * 2**20 + 1))
    assert ended.code == 2
    assert "stdin is too long" in ended.err


def test_an_error_in_json_is_one_document_and_is_told_to_people_too(here: Here) -> None:
    ended = here("generate", "x", "--model", "smolm2", "--json")
    assert ended.code == 1
    assert set(ended.document) == {"error"}
    error = ended.document["error"]
    assert set(error) == {"code", "message", "cause", "remedy"}
    assert error["code"] == "model_not_found"
    assert "smollm2" in error["remedy"]
    assert ended.err.startswith(f"error: {error['message']}\n")
    assert f"   do: {error['remedy']}\n" in ended.err


def test_a_text_after_two_dashes_is_no_option(here: Here) -> None:
    ended = here("generate", "--model", "no-such-model", "--", "--json")
    assert ended.code == 1
    assert ended.out == ""
