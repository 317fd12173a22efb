"""Loading: the form of the weights, the type of the KV cache, and what the books say of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from boli.engine.ledger import Ledger
from boli.engine.llm import KvCacheType
from boli.engine.loading import load
from boli.errors import UsageError
from boli.weigh.receipt import receipt
from engine.toy_llm import write_tokenizer
from tiny_models import TINY, Zoo, wide


class Notices:
    """A progress that remembers what people are told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def start(self, label: str, total_bytes: int | None) -> None:
        raise AssertionError("nothing has to be fetched")

    def advance(self, bytes: int) -> None:
        raise AssertionError("nothing has to be fetched")

    def finish(self) -> None:
        pass

    def notice(self, text: str) -> None:
        self.texts.append(text)

    @property
    def of_weights(self) -> list[str]:
        return [text for text in self.texts if text.startswith("weights")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in float32, with a tokenizer."""
    made = Zoo(tmp_path_factory.mktemp("zoo")).folder(wide("llama"))
    write_tokenizer(made)
    return made


@pytest.mark.parametrize(
    ("weights", "kv_cache_type", "kinds"),
    [
        ("auto", "f32", {"F32"}),
        ("bf16", "bf16", {"BF16"}),
        ("int8", "int8", {"Q8_0"}),
        ("int4", "bf16", {"Q8_0", "Q4_1"}),
    ],
)
def test_weights_and_cache_are_what_was_asked_for(
    folder: Path, weights: str, kv_cache_type: KvCacheType, kinds: set[str]
) -> None:
    told = Notices()
    with load(
        folder, threads=1, context=100, weights=weights, kv_cache_type=kv_cache_type, progress=told,  # type: ignore[arg-type]
    ) as llm:  # fmt: skip
        answer = llm.generate([1, 2, 3], max_tokens=4, ignore_eos=True)
        books, process = llm.ledger.totals(), llm.ledger.resident_bytes()
        held = receipt(
            folder, context=100, threads=1, allocated=books, process=process, types=llm.number_formats,
            kv_dtype=llm.kv_cache_type,
        )  # fmt: skip
    assert len(answer.token_ids) == 4
    names = {name.removeprefix("weights/") for name in books if name.startswith("weights/")}
    assert names - {"F32 vectors"} == kinds
    assert llm.weights.form == ("stored" if weights == "auto" else weights)
    assert told.of_weights == ([] if weights == "auto" else [f"weights become {llm.weights}"])
    assert llm.kv_cache_type == kv_cache_type
    lines = {line.category: line for line in held.lines}
    for category in ("kv_cache", "workspace", *(f"weights/{name}" for name in names)):
        predicted = lines[category].predicted
        assert predicted is not None
        assert predicted.value == lines[category].allocated


def test_a_quantized_file_is_not_rounded_again(tmp_path: Path) -> None:
    path = Zoo(tmp_path).gguf(TINY["llama"], "Q4_0")
    with pytest.raises(UsageError, match="cannot become int8"):
        load(path, weights="int8")


def test_the_ledger_knows_what_was_touched() -> None:
    import numpy as np

    ledger = Ledger(lambda: 1 << 40)
    size = 64 << 20
    cache = ledger.allocate("kv_cache", size, np.uint8, zero=True)
    if ledger.resident()["kv_cache"] == size:
        pytest.skip("this system does not tell")
    assert ledger.resident()["kv_cache"] < size // 8
    cache[: size // 2] = 1
    assert ledger.resident()["kv_cache"] == pytest.approx(size // 2, rel=0.1)
    ledger.enter("workspace", 1000)
    assert ledger.resident()["workspace"] == 1000  # nobody knows where it lies: it counts in full
    ledger.leave("kv_cache", size)
    del cache
    assert ledger.resident().get("kv_cache", 0) == 0


def test_libraries_are_entered_once() -> None:
    ledger = Ledger(lambda: 1 << 40)
    ledger.record_libraries()
    before = ledger.total
    ledger.record_libraries()
    assert 0 <= ledger.total - before < 1 << 20  # nothing new was loaded in between
