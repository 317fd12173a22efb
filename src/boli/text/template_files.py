"""Where model folders keep their chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boli.errors import CorruptFile
from boli.text.template import MAX_TEMPLATE_CHARACTERS, ChatTemplate

MAX_JSON_BYTES = 32 << 20
"""Largest configuration file that is read; long ones list a hundred thousand added tokens."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is no file.

    Raises:
        CorruptFile: It is too large, not JSON, or no object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not JSON", cause=str(error), remedy="get the file again") from error
    if not isinstance(value, dict):
        raise CorruptFile(f"{path} holds no object", remedy="get the file again")
    return value


def folder_template(
    folder: Path, config: Mapping[str, Any], variables: Mapping[str, str]
) -> ChatTemplate | None:
    """The chat template of a folder.

    The order is that of transformers: `chat_template.jinja`, then `chat_template.json`, then the entry of
    `tokenizer_config.json`, which is a text or a list of `{name, template}`. Of several, "default" is taken,
    and "tool_use" where there are tools.

    Args:
        folder: The model's folder.
        config: The contents of `tokenizer_config.json`.
        variables: Texts of the special tokens, which templates use.
    """
    named = _named(config.get("chat_template"))
    named |= _named(read_json(folder / "chat_template.json").get("chat_template"))
    for name, path in (
        ("default", folder / "chat_template.jinja"),
        ("tool_use", folder / "additional_chat_templates" / "tool_use.jinja"),
    ):
        if path.is_file():
            # Four bytes a character at most: a template that is too long for a render is kept, and refused
            # there.
            named[name] = _read(path, 4 * MAX_TEMPLATE_CHARACTERS + 4)
    if "default" not in named:
        return None
    return ChatTemplate(named["default"], variables=variables, tool_source=named.get("tool_use"))


def _named(value: object) -> dict[str, str]:
    if isinstance(value, str):
        return {"default": value}
    entries = value if isinstance(value, list) else []
    return {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }


def _read(path: Path, limit: int) -> str:
    size = path.stat().st_size
    if size > limit:
        raise CorruptFile(f"{path} is {size:,} bytes large", cause=f"at most {limit:,} are read")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path} is not UTF-8", cause=str(error), remedy="get the file again") from error
