"""`boli bench`, with a tiny model."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from boli.cli.app import _Commands
from cli.shell import PATIENCE, Here, boli, lines_wider_than, start
from engine.toy_llm import write_tokenizer
from tiny_models import TINY, save_safetensors

QUICK = ["--prompt-tokens", "8", "--new-tokens", "3", "--repeat", "2", "--threads", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_safetensors(TINY["llama"], tmp_path_factory.mktemp("llama"))
    write_tokenizer(folder)
    return str(folder)


def test_help_says_what_it_does(here: Here) -> None:
    ended = here("bench", "--help", COLUMNS="80")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split("\n\n")[1].strip() == _Commands.summaries["bench"]
    assert "boli bench smollm2" in ended.out.partition("Examples:\n")[2]
    assert not lines_wider_than(ended.out, 80)
    for words in (
        "[default: smollm2]",
        "[default: 512",
        "[default: 128",
        "[default: 5",
        "--quality",
        "--json",
    ):
        assert words in " ".join(ended.out.split())


def test_in_a_pipe_the_document_is_all_there_is(model: str) -> None:
    ended = boli("bench", model, *QUICK, "--batch", "2", "--json")
    assert ended.code == 0
    document = ended.document
    assert ended.out == json.dumps(document, ensure_ascii=False) + "\n"
    assert document["settings"] == {
        "prompt_tokens": 8, "new_tokens": 3, "batch": 2, "depth": 0, "repeat": 2,
        "weights": "auto", "kv_cache_type": "bf16",
    }  # fmt: skip
    assert "quality" not in document
    assert "run 2 of 2" in ended.err
    for warning in document["warnings"]:
        assert f"warning: {warning}" in ended.err


def test_people_get_a_table_that_fits(here: Here, model: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Glass is sand. 玻璃是沙子。" * 3, encoding="utf-8")
    arguments = [*QUICK, "--depth", "5", "--batch", "2", "--quality", "--text", str(text)]
    ended = here("bench", model, *arguments, COLUMNS="80")
    assert ended.code == 0
    assert "\x1b" not in ended.out + ended.err
    assert not lines_wider_than(ended.out, 80)
    words = " ".join(ended.out.split())
    for expected in (
        "2 threads", "GB/s", "prefill 8", "decode 3 × 2 at 5", "of bandwidth", "of peak", "binds",
        "of KV cache", "tokenization", "sampling", "mean KL", "of weights",
    ):  # fmt: skip
        assert expected in words, expected


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what is resident is read in /proc")
def test_the_receipt_is_in_the_document(model: str, tmp_path: Path) -> None:
    picture = tmp_path / "receipt.svg"
    command = ("bench", model, *QUICK, "--batch", "3", "--depth", "40", "--kv-cache-type", "int8", "--json")
    document = boli(*command, "--receipt", "--receipt-svg", str(picture)).document
    receipt = document["receipt"]
    assert "<svg" in picture.read_text(encoding="utf-8")
    categories = receipt["categories"]
    assert {name: each["allocated"] for name, each in categories.items()} == document["ledger"]
    for name, line in categories.items():
        if name in ("kv_cache", "workspace") or name.startswith("weights/"):
            assert line["predicted"] == line["allocated"], name
        assert 0 < line["resident"] <= line["allocated"]
    assert receipt["allocated"] == sum(document["ledger"].values())
    for phase, name in (("prompt", "prefill"), ("decode", "decode")):
        speed = receipt["speed"][phase]
        assert speed["measured"] == document[name]["tokens_per_s"]["median"]
        assert speed["predicted_low"] < speed["predicted"] < speed["predicted_high"] <= speed["ceiling"]
    # By the roofline over the limits of this very run: a step reads the weights once for its sequences.
    read = document["decode"]["bytes_per_token"] * 3 / document["limits"]["read_bytes_per_s"]
    assert receipt["speed"]["decode"]["ceiling"] <= 1.05 * 3 / read


def test_the_receipt_as_a_table(here: Here, model: str) -> None:
    out = here("bench", model, *QUICK, "--receipt", COLUMNS="80").out
    for part in ("decode 3", "Receipt of", "predicted", "allocated", "resident", "unaccounted", "ceiling"):
        assert part in out


@pytest.mark.model
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what is resident is read in /proc")
def test_the_receipt_of_a_real_model_closes() -> None:
    command = ("bench", "smollm2", *QUICK, "--json")
    assert boli(*command).code == 0  # what has to be compiled is compiled here
    receipt = boli(*command, "--receipt").document["receipt"]
    assert receipt["closed"], receipt


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--batch", "0"], 2, "'--batch'"),
        (["--repeat", "x"], 2, "'--repeat'"),
        (["--depth", "-1"], 2, "'--depth'"),
        (["--new-tokens", "9000000"], 2, "new-tokens must be"),
        (["--depht", "3"], 2, "no option '--depht'"),
        (["--depth", "250"], 2, "positions are needed"),
        (["--text", "x.txt"], 2, "--text is for --quality"),
        (["--quality", "--text", "no-such-file.txt"], 1, "no-such-file.txt"),
        (["--quality", "--text", "-"], 2, "stdin is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused(
    here: Here, model: str, arguments: list[str], code: int, what: str
) -> None:
    ended = here("bench", model, *arguments)
    assert ended.code == code
    assert ended.err.startswith("error: ")
    assert what in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


def test_a_text_that_is_none_is_refused(here: Here, model: str, tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    ended = here("bench", model, "--quality", "--text", str(tmp_path / "latin1.txt"), "--json")
    assert ended.code == 2
    assert ended.document["error"]["code"] == "prompt"
    assert "byte 0xe9 at position 3" in ended.document["error"]["cause"]


def test_an_unknown_model_is_named(here: Here) -> None:
    ended = here("bench", "smolm2", "--json")
    assert ended.code == 1
    assert ended.document["error"]["code"] == "model_not_found"


def test_ctrl_c_ends_it_at_once(model: str) -> None:
    process = start(
        "bench", model, "--repeat", "1000", "--prompt-tokens", "200", "--new-tokens", "50", "--json"
    )
    assert process.stderr is not None
    seen = b""
    while b"run 3 of" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err
