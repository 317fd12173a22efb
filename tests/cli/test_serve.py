"""`boli serve` up to where it begins to serve: options, settings and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cli.shell import Here


def test_the_settings_and_where_they_come_from(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "boli.toml"
    file.write_text("max_queue = 7\n")
    ended = here("serve", "gemma3-270m", "--port", "9", "--config", str(file), "--print-config", "--json",
                 "--api-key", "sk-secret", BOLI_THREADS="1")  # fmt: skip
    assert ended.code == 0
    assert ended.document["model"] == {"value": "gemma3-270m", "from": "the command line"}
    assert ended.document["port"] == {"value": 9, "from": "--port"}
    assert ended.document["max_queue"] == {"value": 7, "from": str(file)}
    assert ended.document["threads"] == {"value": 1, "from": "BOLI_THREADS"}
    assert ended.document["host"] == {"value": "127.0.0.1", "from": "default"}
    assert ended.document["api_key"] == {"value": ["(set)"], "from": "--api-key"}
    assert "secret" not in ended.out + ended.err


def test_the_settings_as_a_table(here: Here) -> None:
    ended = here("serve", "--print-config", "--trace")
    assert ended.code == 0
    assert ["trace", "true", "--trace"] in [line.split() for line in ended.out.splitlines()]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_a_public_address_needs_a_key(here: Here, host: str) -> None:
    ended = here("serve", "--host", host)
    assert ended.code == 2
    assert "--allow-no-key" in ended.err
    assert "BOLI_API_KEY" in ended.err


def test_a_port_that_is_taken_is_refused_before_a_model_is_read(here: Here) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = here("serve", "no-such-model", "--port", str(taken.getsockname()[1]))
    assert ended.code == 2
    assert "cannot listen" in ended.err


def test_a_model_that_is_not_there(here: Here) -> None:
    assert here("serve", "no-such-model", "--port", "0").code == 1


def test_a_wrong_option_is_named(here: Here) -> None:
    ended = here("serve", "--max-queu", "3")
    assert ended.code == 2
    assert "--max-queue" in ended.err
    assert here("serve", "--max-queue", "-1").code == 2
