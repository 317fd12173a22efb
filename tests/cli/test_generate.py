"""`boli generate`, with the default model."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.shell import PATIENCE, Here, Terminal, boli, environment, interrupt, lines_wider_than, start

pytestmark = pytest.mark.model

FRANCE = "The capital of France is"


@pytest.fixture(autouse=True)
def model(smollm2: str) -> str:
    return smollm2


def test_the_text_is_all_that_goes_to_stdout() -> None:
    ended = boli("generate", FRANCE, "--max-tokens", "3")
    assert ended.code == 0
    assert ended.out.startswith(" Paris")
    assert ended.out.endswith("\n")
    # Not a terminal: no summary. The first time on a machine kernels are compiled, and that is said.
    assert all("kernel" in line for line in ended.err.splitlines())


def test_the_json_document(here: Here) -> None:
    ended = here("generate", FRANCE, "--max-tokens", "8", "--json")
    assert ended.code == 0
    document = ended.document
    keys = [
        "model",
        "prompt_tokens",
        "tokens",
        "text",
        "finish_reason",
        "drafted_tokens",
        "accepted_tokens",
        "timings",
        "ledger",
        "resident_bytes",
    ]
    assert list(document) == keys
    assert document["model"] == "smollm2"
    assert document["text"].startswith(" Paris")
    assert document["finish_reason"] == "length"
    assert len(document["tokens"]) == 8
    assert document["prompt_tokens"] == [
        token["id"] for token in here("tokenize", FRANCE, "--json").document["tokens"]
    ]
    timings = document["timings"]
    assert list(timings) == ["load_s", "prefill_s", "decode_s", "prefill_tokens_per_s", "decode_tokens_per_s"]
    assert all(value > 0 for value in timings.values())
    ledger = document["ledger"]
    assert {"kv_cache", "workspace"} <= set(ledger)
    assert any(name.startswith("weights/") for name in ledger)
    assert all(isinstance(count, int) and count > 0 for count in ledger.values())
    assert document["resident_bytes"] > 50_000_000
    assert here("generate", FRANCE, "--max-tokens", "8").out == document["text"] + "\n"


def test_stdin_is_the_same_as_an_argument(here: Here) -> None:
    options = ("--max-tokens", "4", "--json")
    text = "巴黎是法国的"
    given = here("generate", text, *options).document
    read = here("generate", "-", *options, stdin=f"{text}\n".encode()).document
    assert (read["prompt_tokens"], read["tokens"]) == (given["prompt_tokens"], given["tokens"])


def test_a_seed_repeats_the_draws_and_is_told(here: Here) -> None:
    options = ("--temperature", "1.5", "--max-tokens", "12", "--json")
    first = here("generate", "Once", *options).document
    again = here("generate", "Once", *options, "--seed", str(first["seed"])).document
    other = here("generate", "Once", *options, "--seed", str(first["seed"] ^ 1)).document
    assert again["tokens"] == first["tokens"] != other["tokens"]


def test_stop_ends_the_text_before_it(here: Here) -> None:
    document = here("generate", "1, 2, 3,", "--stop", " 7", "--stop", "never", "--json").document
    assert document["text"] == " 4, 5, 6,"
    assert document["finish_reason"] == "stop"


def test_every_option_reaches_the_sampler(here: Here) -> None:
    options = [
        "--max-tokens",
        "5",
        "--temperature",
        "0.8",
        "--top-k",
        "40",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
    ]
    options += ["--repetition-penalty", "1.1", "--presence-penalty", "0.5", "--frequency-penalty", "0.5"]
    options += ["--seed", "7", "--threads", "1", "--context", "64", "--json"]
    first = here("generate", "Once upon a time", *options).document
    assert first["seed"] == 7
    assert here("generate", "Once upon a time", *options).document["tokens"] == first["tokens"]
    small = first["ledger"]["kv_cache"]
    assert small < here("generate", "Once", "--max-tokens", "1", "--json").document["ledger"]["kv_cache"]


def test_the_cache_has_the_type_that_was_asked_for(here: Here) -> None:
    command = ("generate", "Hi", "--max-tokens", "1", "--json", "--context", "64")
    sizes = {
        kind: here(*command, "--kv-cache-type", kind).document["ledger"]["kv_cache"]
        for kind in ("f32", "bf16", "int8")
    }
    assert sizes["f32"] == 2 * sizes["bf16"]
    assert sizes["int8"] < 0.6 * sizes["bf16"]


def test_guessing_changes_no_text(here: Here) -> None:
    text = "one two three one two three one two three one two"
    plain, guessed = (
        here("generate", text, "--max-tokens", "48", "--speculation", each, "--json").document
        for each in ("off", "auto")
    )
    assert plain["text"] == guessed["text"]
    assert plain["drafted_tokens"] == plain["accepted_tokens"] == 0
    # How much is guessed is up to the clock.
    assert guessed["drafted_tokens"] >= guessed["accepted_tokens"] >= 0


def test_a_quantized_file_cannot_be_rounded_again(here: Here) -> None:
    ended = here("generate", "Hi", "--weights", "int8", "--json")
    assert ended.code == 2
    assert "already" in ended.document["error"]["message"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what is resident is read in /proc")
@pytest.mark.parametrize("alias", ["smollm2", "gemma3-270m"])
def test_the_receipt_closes(alias: str, tmp_path: Path) -> None:
    command = ("generate", "Once upon a time", "--model", alias, "--threads", "2", "--max-tokens", "16")
    assert boli(*command, "--speculation", "off").code == 0  # what has to be compiled is compiled here
    picture = tmp_path / "receipt.svg"
    ended = boli(*command, "--speculation", "off", "--json", "--receipt-svg", str(picture))
    receipt = ended.document["receipt"]
    assert "<svg" in picture.read_text(encoding="utf-8")
    for name, line in receipt["categories"].items():
        if name in ("kv_cache", "workspace") or name.startswith("weights/"):
            assert line["predicted"] == line["allocated"]
        assert 0 < line["resident"] <= line["allocated"]
    assert abs(receipt["unaccounted"]) < 0.05 * receipt["process"]
    assert receipt["closed"]
    assert list(receipt["speed"]) == ["prompt", "decode"]
    assert all(each["measured"] > 0 < each["predicted"] for each in receipt["speed"].values())


def test_the_receipt_as_a_table(here: Here) -> None:
    out = here("generate", FRANCE, "--max-tokens", "2", "--receipt").out
    assert out.startswith(" Paris")
    for part in ("Receipt of smollm2", "predicted", "allocated", "resident", "unaccounted", "tokens/s"):
        assert part in out


def test_logprobs_in_json_and_as_a_table(here: Here) -> None:
    document = here("generate", FRANCE, "--max-tokens", "4", "--logprobs", "2", "--json").document
    entries = document["logprobs"]
    assert [entry["id"] for entry in entries] == document["tokens"]
    for entry in entries:
        assert entry["logprob"] <= 0
        assert entry["top"][0]["id"] == entry["id"]  # greedy
        assert entry["top"][0]["logprob"] == entry["logprob"] >= entry["top"][1]["logprob"]
        assert sum(math.exp(other["logprob"]) for other in entry["top"]) <= 1.0001
    assert entries[0]["text"] == " Paris"
    out = here("generate", FRANCE, "--max-tokens", "4", "--logprobs", "2").out
    text, table = out[: len(document["text"])], out[len(document["text"]) + 1 :].splitlines()
    assert text == document["text"]
    assert table[0].split() == ["#", "id", "token", "logprob", "prob", "likeliest"]
    assert len(table) == 5
    assert f"{entries[0]['logprob']:.4f}" in table[1]
    none = here("generate", FRANCE, "--max-tokens", "4", "--logprobs", "0").out.splitlines()
    assert none[-5].split() == ["#", "id", "token", "logprob", "prob"]


def test_a_prompt_longer_than_the_context_is_refused(here: Here) -> None:
    ended = here("generate", "a b c d " * 40, "--context", "64", "--json")
    assert ended.code == 1
    assert ended.document["error"]["code"] == "context_length_exceeded"


def test_a_terminal_sees_prompt_text_and_a_summary() -> None:
    with Terminal("generate", "我爱北京", "--max-tokens", "6") as terminal:
        assert terminal.end() == 0
    assert "\x1b[2m我爱北京\x1b[0m" in terminal.raw
    *_, summary = terminal.text.splitlines()
    assert summary.startswith("6 tokens, ")
    assert "loaded in" in summary
    assert summary.endswith("· length")
    with Terminal("generate", FRANCE, "--max-tokens", "2", settings={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.raw
    assert f"{FRANCE} Paris" in terminal.text


def test_text_comes_as_it_is_made() -> None:
    process = start("generate", "Once upon a time", "--max-tokens", "2000")
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1000)
    assert first
    assert process.poll() is None
    ended = interrupt(process)
    assert ended.code == 130
    assert ended.err == "" or "kernel" in ended.err
    assert "Traceback" not in ended.err


def test_ctrl_c_at_the_terminal_leaves_with_130() -> None:
    with Terminal("generate", "Once upon a time", "--max-tokens", "2000") as terminal:
        terminal.until("Once upon a time,")
        assert terminal.interrupt() == 130
    assert "Traceback" not in terminal.text


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees what is loaded in /proc")
@pytest.mark.parametrize("loaded", ["numpy", "llvmlite", ".gguf"])
def test_ctrl_c_while_the_model_loads(loaded: str) -> None:
    process = start("generate", "Once upon a time", "--max-tokens", "2000", "--json")
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + PATIENCE
    while loaded not in maps.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    ended = interrupt(process)
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err


def test_a_reader_that_has_enough() -> None:
    command = f'"{sys.executable}" -m boli generate "Once" --max-tokens 2000; echo "code $?" >&2'
    done = subprocess.run(
        ["bash", "-c", f"({command}) | head -c 5"],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert len(done.stdout) == 5
    assert done.stderr.splitlines()[-1] == b"code 141"
    assert b"Traceback" not in done.stderr


def test_the_logprobs_table_fits_the_terminal(here: Here) -> None:
    out = here("generate", "我爱", "--max-tokens", "4", "--logprobs", "5", COLUMNS="60").out
    assert not lines_wider_than(out.partition(" #")[2], 60)
