"""LangChain's standard tests for chat models, over a scripted policy that calls tools.

What they leave out here, and why:

- `test_init_from_env`: no option of ours is read from the environment.
- `test_serdes`: a policy and an engine are objects; there is nothing to serialise them to.
- `test_json_mode`: the scripted policy has no such mode; where a policy has one it is the policy's
  own, since structured output is not edited.
- `test_image_inputs`, `test_pdf_inputs`, `test_audio_inputs`, `test_image_tool_message`,
  `test_pdf_tool_message`, `test_anthropic_inputs`: they fetch files from the internet; what goes
  in goes to the policy as it is.
- `test_stream_time`: it replays recorded HTTP, and there is none.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_metaaligner import Aligner, ChatMetaAligner
from tests.unit_tests.integrations.chat_model.standard import ToolCallingPolicy
from tests.unit_tests.scripted import ScriptedEngine


class _OverAScriptedPolicy:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMetaAligner

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"policy": ToolCallingPolicy(), "aligner": Aligner(engine=ScriptedEngine())}

    @property
    def model_override_value(self) -> str:
        return "scripted-2"


class TestUnit(_OverAScriptedPolicy, ChatModelUnitTests):
    """The standard unit tests."""


# None of them opens a connection here; those that would are left out above.
class TestIntegration(_OverAScriptedPolicy, ChatModelIntegrationTests):
    """The standard integration tests, over a policy and an aligner with options of their own."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        policy = ToolCallingPolicy().bind(seed=7).with_config(tags=["mine"])
        return {"policy": policy, "engine": ScriptedEngine()}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 100, "timeout": 60, "max_retries": 2}


@pytest.fixture
def vcr() -> Any:
    """What `test_stream_time` asks for before it is left out."""
    return None
