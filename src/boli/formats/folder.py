"""What a model's folder says about the model: its `config.json`, or the one GGUF file in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from boli.errors import CorruptFile, FormatError, ModelNotFound, UnsupportedModel
from boli.formats.safetensors import without_duplicates

MAX_CONFIG: Final = 16 * 2**20


def only_gguf(folder: Path) -> Path:
    """The one GGUF file of a folder that has no `config.json`.

    Raises:
        ModelNotFound: There is none, or more than one.
        UnsupportedModel: The folder holds an adapter.
        FormatError: It cannot be read.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise FormatError(f"cannot read the folder {folder}", cause=str(error)) from None
    if "adapter_config.json" in names:
        raise UnsupportedModel(
            f"{folder} holds an adapter, not a model", remedy="merge it into its base model first"
        )
    ggufs = [folder / name for name in names if name.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        raise ModelNotFound(
            f"{folder} holds {len(ggufs)} GGUF files", remedy=f"name one of them, such as {ggufs[0]}"
        )
    raise ModelNotFound(
        f"{folder} holds neither config.json nor a GGUF file",
        cause="its safetensors files do not say what model they are"
        if any(name.endswith(".safetensors") for name in names)
        else "",
    )


def read_config(path: Path) -> dict[str, object]:
    """The object in a `config.json`.

    Raises:
        CorruptFile: It is no JSON object, or too large to be a configuration.
        FormatError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise FormatError(f"cannot read {path}", cause=str(error)) from None
    if len(raw) > MAX_CONFIG:
        raise CorruptFile(f"{path} is larger than {MAX_CONFIG // 2**20} MiB")
    try:
        parsed = json.loads(raw.decode(), object_pairs_hook=without_duplicates)
    except RecursionError:
        raise CorruptFile(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise CorruptFile(f"{path} is not valid JSON", cause=str(error)[:200]) from None
    if not isinstance(parsed, dict):
        raise CorruptFile(f"{path} is not a JSON object")
    return parsed
