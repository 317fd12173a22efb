"""Options that commands share are the same in all of them."""

from __future__ import annotations

from dataclasses import fields

import pytest
from typer.main import get_command

from boli.cli import chat, generate, trace
from boli.cli.options import Loading, Sampling


@pytest.mark.parametrize(
    ("command", "own"),
    [
        (generate, {"max_tokens": 128, "temperature": 0.0}),
        (chat, {"max_tokens": 512, "temperature": 0.7}),
        (trace, {"max_tokens": 32, "temperature": 0.0}),
    ],
    ids=["generate", "chat", "trace"],
)
def test_groups_become_options_in_their_order(command: object, own: dict[str, object]) -> None:
    found = get_command(command.application).params  # type: ignore[attr-defined]
    names = [each.name for each in found]
    for group in (Sampling, Loading):
        wanted = [each.name for each in fields(group)]
        first = names.index(wanted[0])
        assert names[first : first + len(wanted)] == wanted
    defaults = {each.name: each.default for each in found}
    assert {name: defaults[name] for name in own} == own


def test_what_is_left_out_is_off() -> None:
    assert Sampling().options() == {
        "max_tokens": 128, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": None,
        "stop": (), "logprobs": None,
    }  # fmt: skip
