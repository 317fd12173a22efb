"""What would change."""

from __future__ import annotations

import pytest

from boli import weigh
from boli.errors import UsageError
from boli.weigh.account import Question
from boli.weigh.views import Section
from boli.weigh.whatif import changed, what_if


def cells(section: Section) -> dict[str, list[str]]:
    return {row[0].strip(): list(row[1:]) for table in section.tables for row in table.rows}


def test_a_change_shows_what_it_changes_and_nothing_else() -> None:
    ((section, then),) = what_if(weigh("llama-3.1-8b", engine="vllm"), ["context=32768"])
    assert section.title == "What if context=32768"
    assert then.context == 32_768
    shown = cells(section)
    assert shown["KV cache"] == ["= 1.00 GiB (1.07 GB)", "= 4.00 GiB (4.29 GB)", "× 4", "+3.221 GB"]
    assert "weights" not in shown
    assert "parameters" not in shown
    assert list(section.notes) == ["all else stays the same"]


def test_several_changes_come_alone_and_together() -> None:
    account = weigh("llama-3.1-8b", engine="vllm")
    alone, other, both = what_if(account, ["context=32768", "kv=fp8"])
    assert cells(alone[0])["KV cache"][2] == "× 4"
    assert cells(other[0])["KV cache"][2] == "× 0.5"
    assert cells(both[0])["KV cache"][2] == "× 2"
    assert both[0].title == "What if context=32768, kv=fp8"


def test_both_sides_go_by_the_same_rules() -> None:
    account = weigh("smollm2")
    assert account.engine == "boli"
    ((section, then),) = what_if(account, ["kv=int8"])
    assert then.engine == "model"
    exact = weigh("smollm2", engine="model")
    assert exact.kv is not None
    assert cells(section)["KV cache"][0] == f"= {exact.kv.bytes.readable()}"
    assert "rules of 'model'" in section.notes[-1]


def test_a_change_that_changes_nothing_says_so() -> None:
    ((section, _),) = what_if(weigh("gpt2", context=512), ["context=512"])
    assert list(section.notes) == ["nothing changes"]


def test_everything_can_be_different() -> None:
    question = Question(model="gpt2")
    assert changed(question, "context = 32,768").context == 32_768
    assert changed(question, "requests=4").requests == 4
    assert changed(question, "weights=Q4_K_M").weights == "Q4_K_M"
    assert changed(question, "kv=int8").kv_dtype == "int8"
    assert changed(question, "device=A100 80GB").device == "A100 80GB"
    assert changed(changed(question, "zero=3"), "devices=64").training == {"zero": 3, "devices": 64}
    assert changed(question, "lora=q,v").training == {"targets": "q,v"}
    assert changed(question, "num_key_value_heads=4").shapes == {"num_key_value_heads": 4}
    assert changed(question, "tie_word_embeddings=true").shapes == {"tie_word_embeddings": True}
    assert changed(question, "dtype=float32").shapes == {"dtype": "float32"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("context", "is no change"),
        ("context=", "is no change"),
        ("context=long", "context must be a whole number"),
        ("contxt=1", "did you mean context"),
        ("flux=1", "nothing is called 'flux'"),
        ("context=0", "context"),
    ],
)
def test_senseless_changes(change: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        what_if(weigh("gpt2"), [change])
