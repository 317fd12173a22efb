"""Simon Willison's `llm`, as its user types it, with the file that the page of the documentation shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients.told import PAGES, Told, example
from server.running import toy_server

pytest.importorskip("llm")

TEXT = "I see: 你好 🙂 and more."
MODELS = """\
- model_id: boli
  model_name: toy
  api_base: "{url}"
  supports_schema: true
  supports_tools: true
- model_id: texts
  model_name: toy
  api_base: "{url}"
  completion: true
- model_id: responses
  model_name: toy
  api_base: "{url}"
  responses: true
"""


class Shell:
    """Where `llm` is typed; it keeps everything in a folder of its own."""

    def __init__(self, home: Path, models: str) -> None:
        self._home = home
        (home / "extra-openai-models.yaml").write_text(models, encoding="utf-8")

    def __call__(self, *words: str, typed: str = "", status: int = 0) -> str:
        """What it prints, or what it complains of."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
        done = subprocess.run(
            [sys.executable, "-m", "llm", *words],
            input=typed,
            env={**kept, "LLM_USER_PATH": str(self._home), "HOME": str(self._home), "PYTHONUTF8": "1"},
            capture_output=True,
            encoding="utf-8",
            timeout=200,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return (done.stderr if status else done.stdout).strip()

    def last(self) -> Any:
        """What `llm` has kept of the last answer."""
        [entry] = json.loads(self("logs", "-n", "1", "--json"))
        return entry


@pytest.fixture
def llm(told: Told, tmp_path: Path) -> Shell:
    return Shell(tmp_path, MODELS.format(url=told.url))


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_says(told: Told, tmp_path: Path, page: str) -> None:
    llm = Shell(tmp_path, told.typed(example(page, "llm")))
    told.says(TEXT)
    assert llm("-m", "boli", "hello") == TEXT
    told.says('{"name": "Ada", "age": 36}')
    assert json.loads(llm("-m", "boli", "--schema", "name, age int", "who?")) == {"name": "Ada", "age": 36}


def test_a_conversation(told: Told, llm: Shell) -> None:
    told.says(TEXT)
    assert llm("-m", "boli", "-s", "be brief", "hello") == TEXT
    usage = llm.last()
    assert (usage["input_tokens"] > 10, usage["output_tokens"] > 10) == (True, True)
    told.says("Goodbye.")
    assert llm("-c", "again", "--no-stream", "-o", "temperature", "0") == "Goodbye."
    [read] = told.conversations(1)
    assert [(each["role"], each["content"]) for each in read] == [
        ("system", "be brief"), ("user", "hello"), ("assistant", TEXT), ("user", "again"),
    ]  # fmt: skip


def test_a_chat(told: Told, llm: Shell) -> None:
    told.says("No.")
    assert llm("chat", "-m", "boli", typed="hello\nreally\nquit\n").count("No.") == 2
    assert len(told.conversations(2)[1]) == 3


def test_many_options(told: Told, llm: Shell) -> None:
    told.says('{"a": "more"}')
    words = {
        "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "re", "json_object": 1,
        "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": '{"5": 1}',
    }  # fmt: skip
    options = [word for name, value in words.items() for word in ("-o", name, str(value))]
    assert llm("-m", "boli", "say JSON", *options) == '{"a": "mo'


def test_tools(told: Told, llm: Shell) -> None:
    code = "def weather(city: str) -> str:\n    'The weather in a city.'\n    return f'rain in {city}'\n"
    told.says("Nothing to ask.")
    assert llm("-m", "boli", "--functions", code, "hello") == "Nothing to ask."
    # The toy cannot change its mind between two requests of one program: it asks until `llm` has enough.
    told.says('<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>')
    assert "limit" in llm("-m", "boli", "--functions", code, "--cl", "2", "weather?", status=1)
    last = told.conversations(2)[-1]
    assert [each["role"] for each in last] == ["user", "assistant", "tool"]
    assert last[-1]["content"] == "rain in Oslo"


def test_texts_and_responses(told: Told, llm: Shell) -> None:
    told.says(TEXT)
    assert llm("-m", "texts", "Once", "-o", "max_tokens", "200", "-o", "logprobs", "2") == TEXT
    assert llm("-m", "responses", "hello") == TEXT
    assert llm("-c", "again", "--no-stream") == TEXT


def test_without_a_file(told: Told, llm: Shell) -> None:
    told.says(TEXT)
    assert "toy" in llm("openai", "endpoint", told.url, "--models").splitlines()
    assert llm("openai", "endpoint", told.url, "-m", "toy", "hello") == TEXT


def test_a_key(tmp_path: Path) -> None:
    with toy_server(tmp_path, server={"api_key": ("secret",)}) as server:
        entry = MODELS.format(url=f"{server.url}/v1").partition("- model_id: texts")[0]
        closed, opened = tmp_path / "closed", tmp_path / "opened"
        closed.mkdir()
        opened.mkdir()
        assert "key" in Shell(closed, entry)("-m", "boli", "hello", status=1)
        llm = Shell(opened, f"{entry}  api_key_name: boli\n")
        llm("keys", "set", "boli", "--value", "secret")
        assert llm("-m", "boli", "hello", "-o", "max_tokens", "5", "-o", "logit_bias", '{"258": -100}')


def test_errors(told: Told, llm: Shell) -> None:
    assert "the prompt is too long" in llm("-m", "boli", "x" * 5000, status=1)
