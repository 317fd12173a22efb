from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients.told import Told, told_server


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with told_server(tmp_path_factory.mktemp("told")) as made:
        yield made
