"""A real trace of a real model as a page: it fits, it opens, and it says what the run said."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

import boli
from web.opened import open_page


@pytest.mark.model
def test_two_hundred_real_tokens_in_one_page(chromium: Browser, tmp_path: Path) -> None:
    with boli.load("smollm2") as llm:
        trace = llm.trace(
            "Once upon a time", max_tokens=196, temperature=0.7, top_p=0.9, seed=3, ignore_eos=True
        )
    path = tmp_path / "trace.html"
    trace.html(path)
    document = trace.document()
    assert len(document["tokens"]) == 200
    assert document["decisions"][-1]["attention"] is not None
    assert path.stat().st_size < 3_000_000
    opened = open_page(chromium, path.as_uri())
    assert "196 of 196 logits replayed bit for bit" in opened.text("proof")
    opened.page.locator("[data-token='199']").click()
    assert "Decision 196 of 196" in opened.text("decision")
    last = document["decisions"][-1]
    chosen = opened.page.locator(f".bucket.on[data-bucket='{last['token']}']")
    final = next(one["final"] for one in last["sampler"]["candidates"] if one["id"] == last["token"])
    assert float(chosen.get_attribute("data-final") or 0) == pytest.approx(final, rel=1e-5)
    assert opened.part("lens").locator("[role=row]").count() == document["model"]["num_hidden_layers"] + 2
    assert (opened.requests, opened.troubles) == ([path.as_uri()], [])
    opened.page.context.close()
