"""Models on a hub: the real library against a server on the loopback interface."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from boli.weigh.model import find_model
from sources.fake_hubs import Hub
from sources.fresh_process import Home
from sources.loopback_site import Site
from weigh.small_config import LLAMA, written

_SCRIPT = """
import json, sys
from boli.errors import BoliError
from boli.weigh.model import find_model
for name in sys.argv[1:]:
    try:
        model = find_model(name)
        print(json.dumps([model.name, model.source, model.blueprint.parameters, model.notes]))
    except BoliError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def in_home(home: Home, *names: str) -> list[list[Any]]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *names],
        env=home.environment, cwd=home.folder, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_gives_its_configuration_and_nothing_else(tmp_path: Path) -> None:
    hub = Hub(
        {
            "org/tiny": {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"weights"},
            "org/ggufs": {"tiny.gguf": b"GGUF"},
        }
    )
    with Site(hub.answer) as site:
        home = Home(tmp_path / "home", HF_ENDPOINT=site.url)
        found, again, lacking, missing, known = in_home(
            home, "hf:org/tiny", "org/tiny@main", "hf:org/ggufs", "hf:org/none", "hf:meta-llama/Llama-3.1-8B"
        )
        assert found[:3] == ["hf:org/tiny", "hub", find_model(written(tmp_path, LLAMA)).blueprint.parameters]
        assert "only the configuration was read, from the hub" in found[3][0]
        assert again[2] == found[2]
        assert lacking[0] == "ModelNotFound"
        assert "no config.json" in lacking[1]
        assert missing[0] == "ModelNotFound"
        assert known[:3] == ["llama-3.1-8b", "catalogue", 8_030_261_248]
        assert not site.seen("GET", "model.safetensors")
        assert not site.seen("GET", "Llama-3.1-8B")
        assert not (home.cache / "huggingface" / "hub" / "models--org--tiny").exists()
        home.environment["HF_HUB_OFFLINE"] = "1"
        assert in_home(home, "hf:org/tiny")[0][0] == "NetworkError"


def test_what_is_in_the_hubs_cache_needs_no_network(tmp_path: Path) -> None:
    hub = Hub({"org/tiny": {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"weights"}})
    with Site(hub.answer) as site:
        home = Home(tmp_path / "home", HF_ENDPOINT=site.url)
        home.resolve("hf:org/tiny")
        asked = len(site.requests)
        (found,) = in_home(home, "hf:org/tiny")
        assert "from the hub's cache" in found[3][0]
        assert len(site.requests) == asked


def test_short_names_of_boli_mean_their_file_or_what_it_was_made_from(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (found, config) = in_home(home, "smollm2", "smollm2-135m")
    assert found[:3] == ["smollm2-135m", "catalogue", 134_515_008]
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in found[3][0]
    assert config[3] == []
