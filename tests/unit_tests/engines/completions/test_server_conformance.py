"""Behind a server, the engine passes the tests that every engine should pass."""

from __future__ import annotations

import pytest

from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.testing.engine_conformance import EngineConformance
from tests.unit_tests.engines.completions.fake_server import FakeServer

pytest.importorskip("openai")
pytestmark = pytest.mark.enable_socket


class TestVllm(EngineConformance):
    """The other kinds are among the integration tests."""

    @pytest.fixture
    def engine(self, start):
        server: FakeServer = start("vllm")
        made = load_engine(server.url)
        yield made
        made.close()
