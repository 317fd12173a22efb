"""What the other APIs tell when an answer fails midway, when its client leaves, and beyond the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.running import Running, toy_server
from server.speaker import Speaker
from server.tiny_server import tiny_folder, tiny_server

QUESTION = [{"role": "user", "content": "How warm?"}]
SAID = "It is warm."
COLD: dict[str, Any] = {"temperature": 0}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "How warm?", **COLD},
    "/v1/messages": {"model": "toy", "max_tokens": 400, "messages": QUESTION, **COLD},
    "/api/chat": {"model": "toy", "messages": QUESTION, "options": COLD},
    "/api/generate": {"model": "toy", "prompt": "How warm?", "options": COLD},
}
EVERY_PATH = pytest.mark.parametrize("path", ASKED)


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def here(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy"), hook=speaker) as server:
        speaker.say(SAID, len(server.llm.render(QUESTION)))
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as client:
        yield client


@pytest.fixture
def broken(speaker: Speaker) -> Iterator[None]:
    speaker.breaks_at = 6
    yield
    speaker.breaks_at = None


def told(path: str, text: str) -> list[dict[str, Any]]:
    """The documents of a stream."""
    if path.startswith("/api/"):
        return [json.loads(line) for line in text.splitlines()]
    frames = [frame for frame in text.removesuffix("\n\n").split("\n\n") if not frame.startswith(":")]
    return [json.loads(frame.split("\ndata: ")[1]) for frame in frames]


def words(path: str, document: dict[str, Any]) -> str:
    """The text that one of them brings."""
    if path == "/api/generate":
        text: str = document["response"]
    elif path == "/api/chat":
        text = document["message"]["content"]
    elif path == "/v1/messages":
        text = document.get("delta", {}).get("text", "")
    else:
        text = document["delta"] if document["type"] == "response.output_text.delta" else ""
    return text


@EVERY_PATH
@pytest.mark.usefixtures("broken")
def test_a_stream_that_fails_says_so_at_its_end(here: Running, client: httpx.Client, path: str) -> None:
    reply = client.post(path, json={**ASKED[path], "stream": True})
    assert reply.status_code == 200
    last = told(path, reply.text)[-1]
    if path == "/v1/responses":
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        message = last["response"]["error"]["message"]
    elif path == "/v1/messages":
        assert (last["type"], last["error"]["type"]) == ("error", "api_error")
        message = last["error"]["message"]
    else:
        assert list(last) == ["error"]
        message = last["error"]
    assert "toy is broken" not in message  # nobody expected it, so nobody outside is told
    here.settled()


@EVERY_PATH
def test_a_client_that_waits_hears_something(
    here: Running, speaker: Speaker, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boli.server.retelling.KEEP_ALIVE_SECONDS", 0.05)
    speaker.pauses_at = 6
    try:
        with here.client() as client:
            text = client.post(path, json={**ASKED[path], "stream": True}).raise_for_status().text
    finally:
        speaker.pauses_at = None
    heard = {
        "/v1/responses": ": keep-alive\n\n",
        "/v1/messages": 'event: ping\ndata: {"type":"ping"}\n\n',
    }
    if path in heard:
        assert text.count(heard[path]) >= 3
        text = text.replace(heard[path], "")
    assert "".join(words(path, each) for each in told(path, text)) == SAID


@EVERY_PATH
@pytest.mark.usefixtures("broken")
def test_a_whole_answer_that_fails_is_an_error_of_the_server(
    here: Running, client: httpx.Client, path: str
) -> None:
    reply = client.post(path, json={**ASKED[path], "stream": False})
    assert reply.status_code == 500
    assert "toy is broken" not in reply.text
    error = reply.json()["error"]
    if path.startswith("/api/"):
        assert isinstance(error, str)
    else:
        assert error["message"]
    assert (reply.json().get("type") == "error") == (path == "/v1/messages")
    here.settled()


@pytest.fixture
def endless(here: Running, speaker: Speaker) -> Iterator[None]:
    prompt = len(here.llm.render(QUESTION))
    speaker.say("on and " * 100, prompt)
    yield
    speaker.say(SAID, prompt)


@EVERY_PATH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.usefixtures("endless")
def test_who_leaves_is_forgotten(here: Running, path: str, stream: bool) -> None:
    asked = {**ASKED[path], "stream": stream}
    for _ in range(5):
        with (
            contextlib.suppress(httpx.ReadTimeout),
            here.client(timeout=0.02) as client,
            client.stream("POST", path, json=asked) as reply,
        ):
            next(reply.iter_raw())
    here.settled()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny"))
    with tiny_server(folder, served_model_names=("toy",)) as server:
        yield server


@EVERY_PATH
@pytest.mark.parametrize("stream", [False, True])
def test_every_reply_can_carry_its_receipt(tiny: Running, path: str, stream: bool) -> None:
    asked = {**ASKED[path], "stream": stream, "boli": {"receipt": True}}
    with tiny.client() as client:
        reply = client.post(path, json=asked).raise_for_status()
    document = reply.json() if not stream else told(path, reply.text)[-2 if path == "/v1/messages" else -1]
    (receipt,) = (document["response"] if stream and path == "/v1/responses" else document)["boli"][
        "receipts"
    ]
    assert receipt["generated_tokens"] > 0
    assert receipt["bytes_per_token"] > 0


def test_an_answer_can_be_found_by_its_id(here: Running, client: httpx.Client) -> None:
    ids = [client.post(path, json=ASKED[path]).json()["id"] for path in ("/v1/responses", "/v1/messages")]
    assert [identifier.partition("-")[0] for identifier in ids] == ["resp", "msg"]
    listed = [entry["id"] for entry in here.context.recent.listed("-")]
    for identifier in ids:
        assert "req-" + identifier.partition("-")[2] in listed
