"""Open WebUI itself, if it is on this machine, with boli behind it, once as OpenAI and once as Ollama."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from boli.server.run import bind
from clients.actor import PATIENCE, acting

OPEN_WEBUI = shutil.which("open-webui")
pytestmark = [
    pytest.mark.skipif(OPEN_WEBUI is None, reason="Open WebUI is not on this machine"),
    pytest.mark.slow,
    pytest.mark.timeout(2 * PATIENCE),
]
ASK = [{"role": "user", "content": "What is glass?"}]
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}


def answer(prompt: str) -> str:
    return '{"title": "Glass"}' if "### Task:" in prompt else "Glass is 玻璃."


@contextmanager
def open_webui(home: Path, **variables: str) -> Iterator[httpx.Client]:
    """It runs, as somebody who may ask it anything."""
    assert OPEN_WEBUI is not None
    free = bind("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    settings = {
        "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "DATA_DIR": str(home / "data"),
        "WEBUI_AUTH": "False", "WEBUI_SECRET_KEY": "any", "OFFLINE_MODE": "True", "HF_HUB_OFFLINE": "1",
        "ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "True", **variables,
    }  # fmt: skip
    command = [OPEN_WEBUI, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, env=settings, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            deadline = time.monotonic() + PATIENCE
            while not ready(client):
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline, (home / "log").read_text()
                time.sleep(0.5)
            made = client.post("/api/v1/auths/signin", json={"email": "", "password": ""})
            client.headers["authorization"] = f"Bearer {made.json()['token']}"
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_it_chats_and_calls_it_something(api: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with acting(tmp_path, answer) as (server, actor):
        connection = {
            "ENABLE_OPENAI_API": str(api == "openai"), "ENABLE_OLLAMA_API": str(api == "ollama"),
            "OPENAI_API_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none",
            "OLLAMA_BASE_URL": server.url,
        }  # fmt: skip
        with open_webui(home, **connection) as client:
            names = [each["id"] for each in client.get("/api/models").raise_for_status().json()["data"]]
            model = next(name for name in names if name.split(":")[0] == "toy")
            asked: dict[str, Any] = {"model": model, "messages": ASK}
            whole = client.post("/api/chat/completions", json=asked | {"stream": False, "tools": [CLOCK]})
            assert whole.raise_for_status().json()["choices"][0]["message"]["content"] == "Glass is 玻璃."
            streamed = client.post("/api/chat/completions", json=asked | {"stream": True}).raise_for_status()
            assert "[DONE]" in streamed.text
            title = client.post("/api/v1/tasks/title/completions", json=asked)
            told = title.raise_for_status().json()["choices"][0]["message"]["content"]
            assert told == '{"title": "Glass"}'
        assert any("clock" in prompt for prompt in actor.prompts)
