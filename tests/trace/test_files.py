"""Traces and runs in files: what comes back is what was written, and what nobody wrote is refused."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import boli
from boli.engine.llm import LLM
from boli.errors import CorruptFile, ModelNotFound, StorageError, UsageError
from boli.trace import Trace
from boli.trace.arrays import packed, unpacked
from boli.trace.schema import check_document
from tiny_models import prompt

#: What a text may hold to break a terminal, a page or a file.
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eabc\u2066 \u2028</pre>&amp;\x00 你好 🙂"


@pytest.fixture(scope="module")
def trace(llm: LLM) -> Trace:
    return llm.trace(prompt(40), max_tokens=6, temperature=0.8, seed=1, ignore_eos=True)


@pytest.fixture(scope="module")
def full(llm: LLM) -> Trace:
    return llm.trace(prompt(12), max_tokens=4, temperature=0.8, seed=1, ignore_eos=True, detail="full")


def test_what_is_loaded_is_what_was_saved(trace: Trace, full: Trace, tmp_path: Path) -> None:
    for made in (trace, full):
        made.save(tmp_path / "trace.json")
        back = boli.Trace.load(tmp_path / "trace.json")
        assert back.document() == made.document()
        assert (back.detail, back.proof, back.price) == (made.detail, made.proof, made.price)
        assert repr(back) == repr(made)
        close = 0.5 / 255 + 1e-6 if made is trace else 0.0
        for mine, yours in zip(made.layers, back.layers, strict=True):
            np.testing.assert_allclose(yours.attention.weights, mine.attention.weights, atol=close)
    assert back.logits is not None and made.logits is not None
    np.testing.assert_array_equal(back.logits, made.logits)
    assert back.residual is not None and made.residual is not None
    np.testing.assert_array_equal(back.residual, made.residual)
    assert back.sampler[2].what_if(temperature=2.0).data == made.sampler[2].what_if(temperature=2.0).data
    mode = (tmp_path / "trace.json").stat().st_mode & 0o777
    assert mode == 0o600


def test_a_file_without_all_logits_says_so(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "trace.json")
    back = Trace.load(tmp_path / "trace.json")
    assert back.logits is None
    assert back.residual is None
    with pytest.raises(UsageError, match="not all logits"):
        back.sampler[0].what_if(temperature=1.0)


def test_summary_has_no_attention(llm: LLM) -> None:
    made = llm.trace(prompt(9), max_tokens=2, ignore_eos=True, detail="summary")
    assert made.steps[0].attention is None
    with pytest.raises(UsageError, match="'summary' detail has no attention"):
        _ = made.layers[0].attention


def test_a_file_that_was_cut_short(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace.save(path)
    data = path.read_bytes()
    for size in (0, 1, len(data) // 2, len(data) - 2):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFile, match=r"trace\.json is no JSON") as caught:
            Trace.load(path)
        assert "cut short" in caught.value.cause


def test_a_file_that_was_edited(trace: Trace, tmp_path: Path) -> None:
    document = trace.document()
    document["decisions"][0]["text"] = "something else"
    (tmp_path / "trace.json").write_text(json.dumps(document))
    with pytest.raises(CorruptFile, match="was changed after it was written"):
        Trace.load(tmp_path / "trace.json")


def test_a_file_of_another_version_or_kind(trace: Trace, llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace.document() | {"schema": "boli-trace/9", "boli": "7.0"}))
    with pytest.raises(CorruptFile, match="another version: 'boli-trace/9'") as caught:
        Trace.load(path)
    assert "boli 7.0" in caught.value.cause
    run = llm.generate([5], max_tokens=1).record
    for text, message in (
        (json.dumps(run.to_json()), "is a run, not a trace"),
        ("[]", "is no trace"),
        ('{"schema": 5}', "is no trace"),
        ("NaN", "is no JSON"),
        ('{"schema": NaN}', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\xff", "is no"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(CorruptFile, match=message):
            Trace.load(path)
    with pytest.raises(ModelNotFound, match="cannot be opened"):
        Trace.load(tmp_path / "nowhere.json")


def test_a_file_that_is_too_large(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace.save(tmp_path / "trace.json")
    monkeypatch.setattr("boli.trace.files.LARGEST_FILE", 1000)
    with pytest.raises(CorruptFile, match="too large"):
        Trace.load(tmp_path / "trace.json")


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where everything in a document is; of lists the first entry."""
    found = [at] if at else []
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, part in entries:
        found += paths_of(part, (*at, key))
    return found


def test_whatever_somebody_puts_in_and_seals_anew_is_found(full: Trace) -> None:
    """Each part in turn becomes something else; what a view relies on is refused, and nothing crashes."""
    document = copy.deepcopy(full.document())
    free = {"sampling", "timings", "messages", "stages", "values", "prompt_values"}
    refused = 0
    for path in paths_of(document):
        if path[0] in ("schema", "digest") or free & set(path):
            continue
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        before = parent[path[-1]]
        for other in ({"a": 1}, [["x"]], "text", True):
            if before is None or type(before) is type(other):
                continue
            parent[path[-1]] = other
            with pytest.raises(CorruptFile):
                check_document(document, "it")
                raise AssertionError(f"{path} may be {other}")
            refused += 1
        parent[path[-1]] = before
    assert refused > 500
    check_document(document, "it")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tokens",), []), (("decisions",), []), (("layers",), []), (("decisions", 0, "at"), 7),
        (("decisions", 0, "token"), 5), (("decisions", 1, "lens", "rank"), [0]),
        (("decisions", 1, "lens", "top", 0), []), (("decisions", 1, "norms", "residual"), [1.0]),
        (("decisions", 1, "time", "layers"), []), (("decisions", 1, "time", "layers", 0), [0.1]),
        (("decisions", 1, "sampler", "chosen"), 299), (("model", "windows"), [None]),
        (("decisions", 0, "attention", "weights"), packed(np.zeros((2, 6, 3), np.float32), "u1")),
        (("decisions", 0, "attention", "weights", "shape"), [2, 6, 10**9]),
        (("decisions", 0, "attention", "weights", "data"), "????"),
        (("decisions", 0, "attention", "weights", "dtype"), "O"), (("tokens", 0, "id"), 300),
        (("tokens", 0, "id"), -1), (("run", "sampling", "top_p"), 7), (("run", "sampling", "heat"), 1),
        (("run", "sampling", "logit_bias"), {"300": 1.0}), (("price", "seconds"), 1e999),
        (("decisions", 0, "values", "logits"), packed(np.zeros(5, np.float32), "f4")),
        (("decisions", 0, "values", "residual"), packed(np.zeros((3, 96), np.float32), "f4")),
        (("prompt_values", "q"), packed(np.zeros((2, 5, 96), np.float32), "f4")),
        (("prompt_attention", "weights"), packed(np.zeros((2, 6, 5, 5), np.float32), "f4")),
    ],
)  # fmt: skip
def test_sizes_must_agree(full: Trace, path: tuple[Any, ...], value: Any) -> None:
    changed = copy.deepcopy(full.document())
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(CorruptFile):
        check_document(changed, "it")


def test_a_full_disk_leaves_no_half_file(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.json"
    path.write_text("before")

    def full_disk(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StorageError, match="could not be written") as caught:
        trace.save(path)
    assert caught.value.cause == "No space left on device"
    assert [each.name for each in tmp_path.iterdir()] == ["trace.json"]
    assert path.read_text() == "before"
    with pytest.raises(StorageError):
        trace.save(tmp_path / "nowhere" / "trace.json")


def test_texts_stay_data(llm: LLM, tmp_path: Path) -> None:
    made = llm.trace(HOSTILE, max_tokens=3, ignore_eos=True)
    made.save(tmp_path / "trace.json")
    back = Trace.load(tmp_path / "trace.json").document()
    assert back["text"]["prompt"] == HOSTILE
    assert "".join(token["text"] for token in back["tokens"] if not token["generated"]) == HOSTILE
    for token in back["tokens"]:
        start, end = token["span"] if token["span"] is not None else (0, 0)
        assert 0 <= start <= end <= len(back["text"]["prompt"] + back["text"]["answer"])
    chat = llm.trace([{"role": "user", "content": HOSTILE}], max_tokens=3, ignore_eos=True).document()
    assert chat["text"]["messages"] == [{"role": "user", "content": HOSTILE}]
    owned = "".join(token["text"] for token in chat["tokens"] if token["message"] == 0)
    assert owned == HOSTILE


def test_arrays_survive(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    for kind, close in (("f4", 0.0), ("f2", 1e-3), ("u1", 0.5 / 255 + 1e-7)):
        np.testing.assert_allclose(unpacked(packed(values, kind), "x"), values, atol=close)  # type: ignore[arg-type]
    assert unpacked(packed(np.array([[-5, 1 << 30]]), "i4"), "x").tolist() == [[-5, 1 << 30]]
    for wrong in (
        None,
        {},
        {"dtype": "f4", "shape": [1], "data": 5},
        {"dtype": "f4", "shape": "1", "data": ""},
    ):
        with pytest.raises(CorruptFile):
            unpacked(wrong, "x")
