from __future__ import annotations

from collections.abc import Iterator

import pytest

from langchain_metaaligner.engines.completions import engine as completions
from langchain_metaaligner.engines.completions import http_client
from langchain_metaaligner.engines.leases import Leases
from tests.unit_tests.engines.completions.fake_server import FakeServer, Start


@pytest.fixture(autouse=True)
def _alone_and_quick(monkeypatch) -> None:
    monkeypatch.setattr(completions, "_shared", Leases())
    monkeypatch.setattr(http_client, "_FIRST_PAUSE", 0.01)
    monkeypatch.delenv("METAALIGNER_API_KEY", raising=False)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts fake servers, which end with the test."""
    servers: list[FakeServer] = []

    def begin(*args, **settings) -> FakeServer:
        servers.append(FakeServer(*args, **settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()
