"""Fixtures of the evaluation's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.stand_in_server import StandIn


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()
