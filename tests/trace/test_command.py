"""`boli trace`: what is typed becomes the right run, and what is shown is that run."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from boli.cli.app import run
from boli.engine.record import last_run, load_record
from engine.toy_llm import write_tokenizer
from tiny_models import TINY, Zoo
from traced import DEVICE

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(zoo: Zoo) -> str:
    folder = zoo.folder(TINY["gemma3"])
    write_tokenizer(folder)
    return str(folder)


@pytest.fixture
def boli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs a command line here, with a folder for runs of its own."""
    monkeypatch.setattr("boli.engine.record.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("boli.weigh.devices.this_device", lambda threads: DEVICE)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = run(arguments)
        return code, *capsys.readouterr()

    return command


def test_a_prompt_is_run_and_shown(boli: Command, model: str) -> None:
    code, out, err = boli("trace", "the thing", "-m", model, "--max-tokens", "3")
    assert code == 0, err
    assert "the thing" in out
    assert "tracing in detail 'rows': " in err
    assert "largest difference" in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_a_document_that_can_be_shown_again(boli: Command, model: str, tmp_path: Path) -> None:
    code, out, err = boli("trace", "-", "-m", model, "--max-tokens", "3", "--json", stdin=b"the thing\n")
    assert code == 0, err
    document = json.loads(out)
    assert (document["schema"], document["text"]["prompt"]) == ("boli-trace/1", "the thing")
    assert document["roofline"]["read_bytes_per_s"] > 0
    (tmp_path / "trace.json").write_text(out, encoding="utf-8")
    code, shown, err = boli(
        "trace", str(tmp_path / "trace.json"), "--step", "1", "--layer", "5", "--head", "3"
    )
    assert (code, err) == (0, "")
    assert "Layer 5, head 3" in shown
    code, _, err = boli("trace", str(tmp_path / "trace.json"), "--detail", "full")
    assert (code, "--detail has no meaning here" in err) == (2, True)
    (tmp_path / "trace.json").write_text(out[:-100], encoding="utf-8")
    code, shown, err = boli("trace", str(tmp_path / "trace.json"))
    assert (code, shown) == (1, "")
    assert "cut short" in err


def test_last_traces_what_generate_ran(boli: Command, model: str, tmp_path: Path) -> None:
    code, _, err = boli("trace", "--last")
    assert code == 2
    assert "there is no last run" in err
    sampled = ("--temperature", "0.9", "--seed", "5", "--kv-cache-type", "int8", "--max-tokens", "4")
    assert boli("generate", "the thing", "-m", model, *sampled)[0] == 0
    code, out, err = boli("trace", "--last", "--json", "--detail", "summary")
    assert code == 0, err
    document = json.loads(out)
    assert document["run"]["seed"] == 5
    assert document["model"]["kv_cache_type"] == "int8"
    assert document["proof"]["largest_logit_difference"] == 0.0
    assert document["proof"]["recorded"] is False
    assert document["proof"]["sampler_reproduced"] == 4
    copied = tmp_path / "run.json"
    copied.write_bytes(last_run().read_bytes())
    code, out, err = boli("trace", str(copied), "--json", "--detail", "summary")
    assert code == 0, err
    assert json.loads(out)["tokens"] == document["tokens"]
    for arguments in (("--last", "--temperature", "1"), (str(copied), "--seed", "1")):
        code, _, err = boli("trace", *arguments)
        assert (code, "the run was made already" in err) == (2, True)


def test_last_traces_what_chat_ran(boli: Command, model: str) -> None:
    assert boli("chat", "--once", "the thing", "-m", model, "--max-tokens", "3")[0] == 0
    assert load_record(last_run()).messages is not None
    code, out, err = boli("trace", "--last", "--json", "--detail", "summary")
    assert code == 0, err
    text = json.loads(out)["text"]
    assert text["messages"] == [{"role": "user", "content": "the thing"}]
    assert "<|im_start|>user" in text["prompt"]
    typed = boli("trace", "the thing", "--chat", "-m", model, "--json", "--max-tokens", "2")
    assert json.loads(typed[1])["text"]["prompt"] == text["prompt"]
    assert boli("chat", "-m", model, "--max-tokens", "2", stdin=b"one\ntwo\n")[0] == 0
    kept = load_record(last_run()).messages
    assert kept is not None
    assert [each["role"] for each in kept] == ["user", "assistant", "user"]


def test_files_are_written(boli: Command, model: str, tmp_path: Path) -> None:
    page, saved = tmp_path / "trace.html", tmp_path / "trace.json"
    arguments = (
        "trace",
        "the thing",
        "-m",
        model,
        "--max-tokens",
        "2",
        "--html",
        str(page),
        "--save",
        str(saved),
    )
    code, out, err = boli(*arguments)
    assert (code, out) == (0, ""), err
    assert f"written: {page}" in err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(saved.read_text(encoding="utf-8"))["schema"] == "boli-trace/1"
    code, _, err = boli(*arguments[:-1], str(tmp_path / "nowhere" / "trace.json"))
    assert code == 1
    assert "could not be written" in err


def test_side_by_side(boli: Command, model: str) -> None:
    code, out, err = boli("trace", "the thing", "-m", model, "--max-tokens", "3", "--compare", "BF16")
    assert code == 0, err
    assert out.startswith("The same tokens in another format")
    part = ("--step", "1", "--layer", "5", "--hide-sink")
    code, out, err = boli("trace", "the thing", "-m", model, "--max-tokens", "3", "--compare", "BF16", *part)
    assert code == 0, err
    assert "Inside layer 5" in out
    assert "The same decision in another format (step 1)" in out
    code, out, err = boli(
        "trace", "the thing", "-m", model, "--max-tokens", "3", "--compare", "bf16", "--json"
    )
    compared = json.loads(out)["compare"]
    assert compared["model"]["weights"] == "bf16"
    assert 0.0 < max(each["kl"] for each in compared["decisions"]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace",), "say what to trace"),
        (("trace", "x", "--last"), "not both"),
        (("trace", "x", "--temperature", "-1"), "temperature must be"),
        (("trace", "x", "--detail", "all"), "detail"),
        (("trace", ""), "empty"),
        (("trace", "nowhere.json"), "there is no file nowhere.json"),
        (("trace", "x", "--json", "--step", "1"), "--step has no meaning here"),
        (("trace", "x", "--json", "--hide-sink"), "--hide-sink has no meaning here"),
        (("trace", "x", "--head", "1"), "a head is one of a layer"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    boli: Command, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = boli(*arguments)
    assert code == 2
    assert message in out + err


def test_a_run_that_cannot_be_kept_is_no_failure(
    boli: Command, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("boli.engine.record.cache_dir", lambda: tmp_path / "file")
    code, out, err = boli("generate", "the thing", "-m", model, "--max-tokens", "2")
    assert code == 0
    assert out
    assert "the run is not kept" in err
