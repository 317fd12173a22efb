"""What the pages and the packaging say of the server is what the server does."""

from __future__ import annotations

import configparser
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from boli.cli.app import run
from boli.server.auth import OPEN_PATHS
from boli.server.chat_wire import ChatRequest, Message
from boli.server.completions_wire import CompletionRequest
from boli.server.embeddings import EmbeddingRequest
from boli.server.messages_request import MessagesRequest
from boli.server.ollama_request import Generating, Options
from boli.server.responses_request import ResponsesRequest
from boli.server.settings import Settings, gather

ROOT = Path(__file__).parents[2]
PAGES = ["serve.md", "serve.zh-CN.md"]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def row(text: str, route: str) -> str:
    """The row of a route in the table of what changes nothing, which is the last one that names it."""
    return [line for line in text.splitlines() if line.startswith(f"| `{route}`")][-1]


@pytest.mark.parametrize("name", PAGES)
def test_every_field_that_changes_nothing_is_on_the_page(name: str) -> None:
    text = page(name)
    for route, names in (
        ("/v1/chat/completions", ChatRequest.tolerated | Message.tolerated),
        ("/v1/completions", CompletionRequest.tolerated),
        ("/v1/responses", ResponsesRequest.tolerated),
        ("/v1/embeddings", EmbeddingRequest.tolerated),
        ("/v1/messages", MessagesRequest.tolerated),
        ("/api/chat", Generating.tolerated | Options.tolerated),
    ):
        told = set(re.findall(r"`([a-z0-9_]+)`", row(text, route)))
        assert told == set(names), route


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_is_on_the_page(name: str) -> None:
    text = page(name)
    for each in fields(Settings):
        if each.name != "model":
            assert f"`{each.name}`" in text, each.name
    assert not re.search(r"/(work|opt/boli/dev|tmp)/", text)


@pytest.mark.parametrize("name", PAGES)
def test_what_the_page_types_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every `boli serve` of the page, with `--print-config`, so that nothing is loaded."""
    lines = re.findall(r"^(?:[A-Z_]+=\S+ )*(boli serve.*)$", page(name), re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if "--config" not in words:
            assert run([*words, "--print-config"]) == 0, line
    capsys.readouterr()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page(name)):
        if "://" not in target:
            assert (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_metrics_on_the_page_exist(name: str) -> None:
    source = (ROOT / "src/boli/server/metrics.py").read_text()
    told = set(re.findall(r"`boli:([a-z0-9_]+)`", page(name)))
    assert len(told) > 15
    for each in told:
        assert (
            f'"{each.removesuffix("_total")}"' in source or f'"boli:{each.removesuffix("_total")}"' in source
        ), each


def test_every_promise_names_a_test_that_exists() -> None:
    text = page("server-promises.md")
    for number in range(1, 22):
        assert f"| S{number} |" in text
    for number in range(1, 21):
        assert f"| R{number} |" in text
    for file in re.findall(r"`([a-z_0-9/]+/[a-z_0-9]+\.(?:py|json))", text):
        assert (ROOT / "tests" / file).exists() or (ROOT / file).exists(), file
    for file, name in re.findall(r"`([a-z/_0-9]+\.py)::(test_\w+)`", text):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), name


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, continued lines joined."""
    text = (ROOT / "packaging/Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_runs_without_root_and_is_looked_after() -> None:
    told = instructions()
    last = max(index for index, (word, _) in enumerate(told) if word == "FROM")
    final = told[last:]
    assert "slim" in final[0][1]
    (user,) = [rest for word, rest in final if word == "USER"]
    assert user.isdecimal()
    assert int(user) > 0
    (check,) = [rest for word, rest in final if word == "HEALTHCHECK"]
    path = re.search(r"'(/[a-z]+)'", check)
    assert path is not None
    assert path[1] in OPEN_PATHS  # without a key
    assert ("ENTRYPOINT", '["boli", "serve"]') in final
    after_user = final[final.index(("USER", user)) :]
    assert not any(word in ("RUN", "COPY", "ADD") for word, _ in after_user)
    environment = dict(
        each.split("=", 1)
        for word, rest in final
        if word == "ENV"
        for each in shlex.split(rest)
        if "=" in each
    )
    settings, _ = gather({}, environment={**environment, "BOLI_API_KEY": "secret"})
    assert (settings.host, settings.port, settings.api_key) == ("0.0.0.0", 8000, ("secret",))
    # What it downloads and compiles goes into the volume, which is that user's.
    (volume,) = [rest for word, rest in final if word == "VOLUME"]
    assert environment["XDG_CACHE_HOME"] == volume
    runs = [rest for word, rest in final if word == "RUN"]
    assert any(run.endswith(f"install -d -o boli -g boli {volume}") for run in runs)
    for word, rest in told:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source


def test_the_unit_is_one_and_gives_answers_time_to_end() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "packaging/boli.service")
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[1] == "serve"
    settings, _ = gather(
        {"shutdown_timeout": float(words[words.index("--shutdown-timeout") + 1])}, environment={}
    )
    assert float(service["TimeoutStopSec"]) > settings.shutdown_timeout + 5
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert "User" not in service or service["User"] != "root"
    assert service["KillSignal"] == "SIGTERM"
    assert "MemoryDenyWriteExecute" not in service  # kernels are compiled here
    assert unit["Install"]["WantedBy"] == "multi-user.target"
