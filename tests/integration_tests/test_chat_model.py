"""The chat model over a real small model that writes and, with its adapter, edits.

Of LangChain's standard tests those for tools and structured output are left out here, since the
small model calls none; the unit tests run them over a scripted policy.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_metaaligner import Aligner, ChatMetaAligner, CheckpointError


class SmallModel(BaseChatModel):
    """A local model by its chat template, greedily.

    Attributes:
        engine: Whose model it is.
    """

    engine: Any
    model: str = "smollm2"

    @property
    def _llm_type(self) -> str:
        return "small-local"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        roles = {"human": "user", "ai": "assistant", "system": "system"}
        said = [{"role": roles[one.type], "content": one.text} for one in messages]
        tokenizer, model = self.engine.tokenizer, self.engine.model
        ids = tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        # Without its adapter it writes, with it it edits.
        with model.disable_adapter() if hasattr(model, "disable_adapter") else _nothing():
            made = model.generate(**ids, max_new_tokens=24, do_sample=False)
        asked = ids["input_ids"].shape[1]
        text = tokenizer.decode(made[0, asked:], skip_special_tokens=True)
        for word in stop or ():
            text = text.split(word)[0]
        written = made.shape[1] - asked
        reply = AIMessage(
            text,
            usage_metadata={
                "input_tokens": asked,
                "output_tokens": written,
                "total_tokens": asked + written,
            },
            response_metadata={"model_name": kwargs.get("model") or self.model},
        )
        return ChatResult(generations=[ChatGeneration(message=reply)])


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


@functools.cache
def shared() -> Aligner:
    return Aligner(max_new_tokens=64)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Any:
    try:
        shared().load()
    except CheckpointError as error:
        pytest.skip(f"no aligner here: {error}")
    yield
    shared().close()


class TestOverASmallModel(ChatModelIntegrationTests):
    """The standard tests that need no tools."""

    has_tool_calling = False
    has_tool_choice = False
    has_structured_output = False

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMetaAligner

    @property
    def chat_model_params(self) -> dict[str, Any]:
        policy = SmallModel(engine=shared().engine)
        # What so small a model writes is now and then too long to edit within the bound.
        return {"policy": policy, "aligner": shared(), "on_error": "pass"}

    @property
    def model_override_value(self) -> str:
        return "smollm2-other"


@pytest.fixture
def vcr() -> Any:
    """What `test_stream_time` asks for before it is left out."""
    return None
