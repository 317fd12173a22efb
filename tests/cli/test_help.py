"""What `--help` says, and that it is quick."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import pytest

import boli as package
from boli.cli import chat, generate, main
from boli.cli.app import _Commands
from boli.engine.params import SamplingParams
from boli.sources import DEFAULT_MODEL
from cli.shell import Here, boli, environment, lines_wider_than

COMMANDS = [
    "",
    "generate",
    "chat",
    "tokenize",
    "models",
    "models list",
    "models pull",
    "models rm",
    "models show",
    "weigh",
    "bench",
    "doctor",
]
SAMPLING = [
    "max_tokens", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop", "logprobs",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(here: Here, command: str) -> None:
    ended = here(*command.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: {f'boli {command}'.strip()} ")
    examples = ended.out.partition("Examples:\n")[2].partition("\n\n")[0]
    assert f"boli {command}".strip() in examples
    assert not lines_wider_than(ended.out, 80)
    assert here(*command.split(), "-h").out == ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_into_a_narrow_terminal(here: Here, command: str) -> None:
    out = here(*command.split(), "--help", COLUMNS="40").out
    before, _, rest = out.partition("Examples:\n")
    after = rest.partition("\n\n")[2]  # what one types is not broken
    assert not lines_wider_than(before + after, 40)


def test_generate_has_all_options_with_their_defaults(here: Here) -> None:
    words = " ".join(here("generate", "--help").out.split())
    for name in [*SAMPLING, "model", "threads", "context", "json"]:
        assert f"--{name.replace('_', '-')} " in words
    for text in ("[default: smollm2]", "[default: 128]", "[default: 0.0]", "[default: 1.0]"):
        assert text in words


def test_defaults_are_those_of_the_api() -> None:
    params = SamplingParams()
    parameters = inspect.signature(generate.generate).parameters
    for name in SAMPLING:
        assert (parameters[name].default or ()) == (getattr(params, name) or ()), name
    assert parameters["model"].default == DEFAULT_MODEL
    assert inspect.signature(chat.chat).parameters["model"].default == DEFAULT_MODEL


def test_the_list_of_commands_says_what_each_says_of_itself(here: Here) -> None:
    for name, summary in _Commands.summaries.items():
        help_text = here(name, "--help").out
        assert help_text.split("\n\n")[1].strip() == summary
        assert import_module(f"boli.cli.{name}").application is not None


@pytest.mark.parametrize("command", ["", "generate", "chat", "models show", "weigh", "bench"])
def test_help_imports_nothing_slow(command: str) -> None:
    # Time would measure the machine; what is imported is what costs it.
    code = (
        "import sys, json; sys.argv = json.loads(sys.argv[1]); from boli.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    arguments = json.dumps(["boli", *command.split(), "--help"])
    answer = subprocess.run(
        [sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True, env=environment()
    )
    imported = set(json.loads(answer.stdout.splitlines()[-1]))
    slow = {"pydantic", "numpy", "numba", "llvmlite", "tokenizers", "jinja2", "safetensors"}
    slow |= {"rich.console", "rich.table"}
    assert "typer" in imported
    assert not slow & imported
    assert not {name for name in imported if name.startswith(("boli.engine", "boli.cpu", "boli.sources"))}


def test_version() -> None:
    ended = boli("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"boli {package.__version__}\n", "")


def test_the_installed_command_is_the_module() -> None:
    (script,) = entry_points(group="console_scripts", name="boli")
    assert script.load() is main


def test_no_command_shows_the_help_and_is_a_usage_error(here: Here) -> None:
    ended = here()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == here("--help").out


@pytest.mark.parametrize(
    ("words", "completion"),
    [("boli tok", "tokenize"), ("boli generate --temp", "--temperature"), ("boli models pu", "pull")],
)
def test_a_shell_completes_words(words: str, completion: str) -> None:
    last = str(len(words.split()) - 1)
    ended = boli(settings={"_BOLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": last})
    assert ended.code == 0
    assert completion in ended.out.split()
