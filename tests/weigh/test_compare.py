"""Two models side by side."""

from __future__ import annotations

from boli import weigh
from boli.weigh.account import summary
from boli.weigh.compare import compare


def test_two_models_side_by_side() -> None:
    small, large = weigh("smollm2", engine="model"), weigh("llama-3.1-8b", device="A100 80GB")
    section = compare(small, large, title="both", names=("small", "large"))
    (table,) = section.tables
    assert [column.title for column in table.columns] == ["", "small", "large", "ratio", "change"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["parameters"] == ["= 134.5 million", "= 8.03 billion", "× 59.7", "+7,895,746,240"]
    assert rows["decode"][0] == "-"  # only one has a device
    assert rows["decode"][1].endswith("tokens/s")
    assert rows["decode"][2:] == ["", ""]
    assert [row[0] for row in table.rows] == list(dict.fromkeys([*summary(small), *summary(large)]))
    assert ("large: weights", large.weights.bytes) in section.explained


def test_a_model_is_the_same_as_itself() -> None:
    account = weigh("gpt2")
    (table,) = compare(account, account, title="", names=("a", "b")).tables
    assert all(row[3] == "same" for row in table.rows)
    assert not compare(account, account, title="", names=("a", "b"), changes_only=True).tables
