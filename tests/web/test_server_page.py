"""The server's page, in a real Chromium against a real server of a tiny model."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from boli.cpu.runner import CpuRunner
from boli.engine.batch import Batch, Float32
from server.running import Running
from server.tiny_server import tiny_folder, tiny_server
from web.made_decision import JsonObject
from web.opened import Opened, open_page

PATIENCE = 60_000  # milliseconds
HOSTILE = '<img src=x onerror="window.owned=1"> \u202eevil'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with tiny_server(tiny_folder(tmp_path_factory.mktemp("model")), trace=True) as here:
        yield here


@pytest.fixture
def chat(chromium: Browser, server: Running) -> Iterator[Opened]:
    opened = open_page(chromium, f"{server.url}/", wait_for="pages")
    opened.page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield opened
    assert all(address.startswith(f"{server.url}/") for address in opened.requests)
    assert opened.troubles == []
    opened.page.context.close()


def _wish(opened: Opened, tokens: int, seed: int | None = None) -> None:
    opened.part("open-settings").click()
    opened.part("wish-tokens").fill(str(tokens))
    if seed is not None:
        opened.part("wish-seed").fill(str(seed))
    opened.part("open-settings").click()


def _ask(opened: Opened, text: str = "hello") -> None:
    opened.part("input").fill(text)
    opened.page.keyboard.press("Enter")


def test_an_answer_streams_and_glass_shows_exactly_it(chat: Opened, server: Running) -> None:
    _wish(chat, 12, seed=3)
    _ask(chat, "one\ntwo")
    expect(chat.part("receipt")).to_contain_text("12 tokens")
    answer = chat.part("assistant").inner_text()
    chat.part("glass").click()
    chat.part("decision").wait_for()
    assert "12 of 12 logits replayed bit for bit" in chat.text("proof")
    assert "Decision 1 of 12" in chat.text("decision")
    assert chat.page.locator(".film .frame:not(.prompt)").count() == 12
    with server.client() as client:
        listed = client.get("/stats").json()["recent"][0]
        assert listed["generated_tokens"] == 12
    chat.page.keyboard.press("ArrowRight")
    assert "Decision 2 of 12" in chat.text("decision")
    chat.part("back").click()
    assert chat.part("assistant").inner_text() == answer


def test_stop_ends_the_request_in_the_server(
    chat: Opened, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(runner: CpuRunner, batch: Batch) -> Float32:
        time.sleep(0.01)  # a tiny model is quicker than a browser: 200 tokens in 60 ms
        return forward(runner, batch)

    forward = CpuRunner.forward
    monkeypatch.setattr(CpuRunner, "forward", slow)

    def endless(route: Route) -> None:
        route.continue_(
            post_data=json.dumps(json.loads(route.request.post_data or "{}") | {"ignore_eos": True})
        )

    chat.page.route("**/v1/chat/completions", endless)
    # The button is pressed by the page's first text.
    chat.page.evaluate(
        """() => new MutationObserver(() => {
            const text = document.querySelector('[data-testid=assistant]')?.innerText
            if (text) document.querySelector('[data-testid=stop]')?.click()
        }).observe(document.body, { subtree: true, childList: true, characterData: true })"""
    )
    _wish(chat, 200)
    _ask(chat)
    expect(chat.part("receipt")).to_contain_text("stopped")
    assert chat.text("assistant")
    server.settled()


def test_regenerate_with_a_seed_says_the_same(chat: Opened) -> None:
    _wish(chat, 8, seed=11)
    _ask(chat)
    expect(chat.part("receipt")).to_contain_text("8 tokens")
    first = chat.text("assistant")
    chat.part("regenerate").click()
    expect(chat.part("receipt")).to_contain_text("8 tokens")
    assert chat.part("assistant").count() == 1
    assert chat.text("assistant") == first
    assert chat.part("user").count() == 1


def test_the_strip_shows_what_the_server_does(chat: Opened, server: Running) -> None:
    pages = server.service.stats()["pages"]["total"]
    assert f"/ {pages}" in chat.text("pages")
    seen = threading.Event()

    def ask_on() -> None:
        with server.client() as client:
            for _ in range(500):
                if seen.is_set():
                    return
                client.post(
                    "/v1/completions", json={"prompt": "on and on", "max_tokens": 200, "ignore_eos": True}
                )

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        expect(chat.part("requests")).to_have_text("1")
        expect(chat.part("rate")).not_to_have_text("0")
    finally:
        seen.set()
        asking.join()
    expect(chat.part("requests")).to_have_text("0")


def test_what_the_server_refuses_is_said(chat: Opened) -> None:
    _wish(chat, 8)
    _ask(chat, "far too long " * 60)
    expect(chat.page.get_by_role("alert")).to_contain_text("context")
    assert [trouble for trouble in chat.troubles if "400" not in trouble] == []
    chat.troubles.clear()


def test_text_of_model_and_reader_is_never_markup(chat: Opened) -> None:
    def answer_this(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}")
        body["guided_regex"] = re.escape(HOSTILE)
        route.continue_(post_data=json.dumps(body))

    chat.page.route("**/v1/chat/completions", answer_this)
    _wish(chat, 120)
    _ask(chat, HOSTILE)
    expect(chat.part("receipt")).to_be_visible()
    for who in ("user", "assistant"):
        assert chat.text(who) == '<img src=x onerror="window.owned=1"> ⟨202E⟩evil'
    chat.part("glass").click()
    chat.part("decision").wait_for()
    assert chat.page.locator("img").count() == 0
    assert chat.page.evaluate("window.owned ?? null") is None


def test_languages_themes_and_small_screens(chat: Opened) -> None:
    _wish(chat, 8, seed=11)
    _ask(chat)
    expect(chat.part("receipt")).to_contain_text("8 tokens")
    chat.part("language").click()
    assert chat.page.locator("html").get_attribute("lang") == "zh-CN"
    assert "词元/秒" in chat.text("strip")
    chat.part("theme").click()
    for width in (1440, 390, 360):
        chat.fits(width)


def test_the_policy_of_a_careful_server_is_enough(chromium: Browser, server: Running) -> None:
    """Nothing but the server's own files: no inline script or style, no data addresses."""
    page = chromium.new_context().new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))

    def stricter(route: Route) -> None:
        reply = route.fetch()
        headers: JsonObject = {**reply.headers, "content-security-policy": "default-src 'self'"}
        route.fulfill(response=reply, headers=headers)

    page.route(f"{server.url}/", stricter)
    page.goto(f"{server.url}/")
    page.get_by_test_id("pages").wait_for()
    page.get_by_test_id("open-settings").click()
    assert troubles == []
    page.context.close()


def test_a_key_is_asked_for_and_kept_nowhere(chromium: Browser, tmp_path: Path) -> None:
    key = "a-secret-key"
    with tiny_server(tiny_folder(tmp_path), api_key=(key,)) as here:
        opened = open_page(chromium, f"{here.url}/", wait_for="key")
        page = opened.page
        page.set_default_timeout(PATIENCE)
        assert "wants a key" in opened.text("strip")
        opened.part("key").fill(key)
        opened.part("pages").wait_for()
        opened.part("wish-tokens").fill("5")
        _ask(opened)
        expect(opened.part("receipt")).to_contain_text("5 tokens", timeout=PATIENCE)
        assert opened.part("glass").is_disabled()  # this server keeps no answers
        stored: Any = page.evaluate(
            "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]"
        )
        assert not any(key in place for place in stored)
        assert not any(key in address for address in opened.requests)
        page.reload()
        opened.part("key").wait_for()
        assert opened.part("key").input_value() == ""
        page.context.close()
