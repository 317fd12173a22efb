"""Fields that take a text or a list: which of the two a value is meant to be is told by its look.

So an error is about that one, and names the place in the list.
"""

from __future__ import annotations

from typing import Any

from pydantic import Discriminator, Tag

# Names in brackets are left out of the paths that clients are told.
TEXT = Tag("(text)")
LIST = Tag("(list)")


def _kind(value: Any) -> str:
    return "(list)" if isinstance(value, list) else "(text)"


TEXT_OR_LIST = Discriminator(_kind)
