"""Behind each kind of server, the engine passes the tests that every engine should pass."""

from __future__ import annotations

import pytest

from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.testing.engine_conformance import EngineConformance
from tests.unit_tests.engines.completions.fake_server import FakeServer

pytestmark = pytest.mark.enable_socket


@pytest.mark.parametrize("kind", ["vllm", "llama", "ollama", "other"])
class TestEachServer(EngineConformance):
    @pytest.fixture
    def engine(self, kind, start):
        server: FakeServer = start(kind)
        made = load_engine(server.url)
        yield made
        made.close()
