"""Settings: where each value comes from, and what is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import boli
from boli.errors import UsageError
from boli.server.settings import OTHER_VARIABLES, Settings, gather


def test_each_place_wins_over_those_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nmax_queue = 2\ncontext = 333\napi_key = ["a", "b"]\nhost = "::1"\n')
    settings, origins = gather(
        {"port": 3, "threads": None, "allowed_hosts": ()},
        environment={"BOLI_PORT": "2", "BOLI_MAX_QUEUE": "5", "BOLI_TRACE": "yes", "HOME": "/"},
        config=file,
    )
    assert (settings.port, settings.max_queue, settings.context) == (3, 5, 333)
    assert (settings.api_key, settings.host, settings.trace) == (("a", "b"), "::1", True)
    assert origins["port"].source == "--port"
    assert origins["max_queue"].source == "BOLI_MAX_QUEUE"
    assert origins["context"].source == str(file)
    assert origins["threads"].source == "default"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('log_format = "json"\napi_key = "one"\n')
    settings, _ = gather({}, environment={"BOLI_CONFIG": str(file)})
    assert (settings.log_format, settings.api_key) == ("json", ("one",))


def test_variables_hold_lists_between_commas() -> None:
    settings, _ = gather({}, environment={"BOLI_API_KEY": "one, two,", "BOLI_SHUTDOWN_TIMEOUT": "1.5"})
    assert (settings.api_key, settings.shutdown_timeout) == (("one", "two"), 1.5)


def test_variables_of_the_whole_program_are_no_settings() -> None:
    settings, _ = gather({}, environment=dict.fromkeys(OTHER_VARIABLES - {"BOLI_CONFIG"}, "1"))
    assert settings == Settings()
    # Whoever adds a variable to the program must not make the server refuse to start.
    source = "".join(path.read_text() for path in Path(boli.__file__).parent.rglob("*.py"))
    known = {f"BOLI_{each.name.upper()}" for each in fields(Settings)} | OTHER_VARIABLES
    assert set(re.findall(r"(?<![A-Z_])BOLI_[A-Z_]*[A-Z]", source)) <= known


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BOLI_MAXQUEUE": "1"}, "max_queue"),
        ({"BOLI_PORT": "eighty"}, "BOLI_PORT"),
        ({"BOLI_TRACE": "perhaps"}, "BOLI_TRACE"),
        ({"BOLI_PORT": "70000"}, "BOLI_PORT"),
        ({"BOLI_WEIGHTS": "int5"}, "BOLI_WEIGHTS"),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        gather({}, environment=environment)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "port"),
        ("port = true", "port"),
        ("port = 1.5", "port"),
        ("api_key = [1]", "api_key"),
        ("[server]\nport = 1", "server"),
        ("port = ", "TOML"),
        ("host = 1", "host"),
        ("shutdown_timeout = -1", "shutdown_timeout"),
        ("shutdown_timeout = nan", "shutdown_timeout"),
    ],
)
def test_a_wrong_line_of_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        gather({}, environment={}, config=file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"port": -1}, {"max_queue": True}, {"api_key": ("",)}, {"api_key": ("a\nb",)}]
)
def test_settings_check_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**wrong)
