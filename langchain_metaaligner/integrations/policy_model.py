"""A chat model that answers for its policy in all but what it replies."""

# The policy is called without a run of its own, which only a model's underscored methods do.
# ruff: noqa: SLF001

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import ConfigDict, Field, model_validator

from langchain_metaaligner.editing.aligner import Objectives
from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.errors import UnknownObjectiveError
from langchain_metaaligner.integrations.chat_cache import digest
from langchain_metaaligner.integrations.reply_policy import ReplySettings


class PolicyModel(ReplySettings, BaseChatModel):
    """A chat model in its policy's stead: its tools, tokens, name and limits are the policy's.

    Whoever replies derives from it.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    policy: BaseChatModel = Field(description="The chat model that writes the replies.")
    policy_options: dict[str, Any] = Field(
        default_factory=dict, description="What the policy is given with each call."
    )
    edit_tool_text: bool = Field(
        default=False, description="Whether the text beside tool calls is edited too."
    )

    @model_validator(mode="after")
    def _as_its_policy(self) -> Self:
        # The policy has no run of its own, so that its listeners and marks are ours.
        policy, own = self.policy, self.__dict__
        for name in ("callbacks", "custom_get_token_ids", "output_version"):
            if own[name] is None:
                own[name] = getattr(policy, name)
        own["tags"] = list(dict.fromkeys([*(policy.tags or ()), *(own["tags"] or ())])) or None
        own["metadata"] = {**(policy.metadata or {}), **(own["metadata"] or {})} or None
        return self

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the policy tools.

        Args:
            tools: The tools, in any form that the policy takes.
            tool_choice: Which tool must be called, where one must.
            **kwargs: Further options of the policy's own method.

        Returns:
            This model, bound to the tools.

        Raises:
            NotImplementedError: The policy has no tools.
        """
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        bound: Any = self.policy.bind_tools(tools, **kwargs)
        options: dict[str, Any] = {}
        while isinstance(bound, RunnableBinding):
            options = {**bound.kwargs, **options}
            bound = bound.bound
        if not isinstance(bound, BaseChatModel):
            msg = (
                f"{type(self.policy).__name__}.bind_tools gives a {type(bound).__name__}, whose"
                " replies can't be edited from here. Put an aligner behind it in a pipe instead."
            )
            raise NotImplementedError(msg)
        same = bound is self.policy
        model = self if same else self.model_copy(update={"policy": bound})
        return model.bind(**options)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """The policy's own: data in a given form is not edited.

        Args:
            schema: The form.
            include_raw: Whether the message is returned beside the data.
            **kwargs: Further options of the policy's own method.

        Returns:
            What the policy returns.
        """
        return self.policy.with_structured_output(schema, include_raw=include_raw, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The policy's token ids of a text."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.policy.get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """How many tokens of the policy a text has."""
        return self.policy.get_num_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """How many tokens of the policy a conversation has."""
        return self.policy.get_num_tokens_from_messages(messages, tools)

    @property
    def model_name(self) -> str | None:
        """The name of the policy's model, where it has one."""
        for name in ("model_name", "model", "model_id"):
            if isinstance(value := getattr(self.policy, name, None), str):
                return value
        return None

    @property
    def _llm_type(self) -> str:
        return "metaaligner-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {
            **self.policy._identifying_params,
            "policy_type": self.policy._llm_type,
            "metaaligner_objectives": [one.name for one in self.wanted(None)],
            "metaaligner_model": self.model_label(),
        }

    def _resolve_model_profile(self) -> Any:
        return self.policy.profile

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        return self.policy._combine_llm_outputs(llm_outputs)

    def options_of(
        self, stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[list[str] | None, dict[str, Any]]:
        """What one call says beside the conversation, with what is said at every call.

        Args:
            stop: Where this call stops.
            kwargs: All else that this call says.

        Returns:
            Where the policy stops, and all else.
        """
        options = {**self.policy_options, **kwargs}
        own_stop = options.pop("stop", None)
        return (own_stop if stop is None else stop), options

    def _known(self, asked: Objectives | None) -> tuple[Objective, ...]:
        try:
            return self.wanted(asked)
        except UnknownObjectiveError:
            # Told where it is raised: inside the run.
            return ()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        stop, options = self.options_of(stop, kwargs)
        params = self.policy._get_ls_params(stop=stop, **options)
        asked = kwargs.get("model")
        name = asked if isinstance(asked, str) else params.get("ls_model_name")
        return {**params, "ls_model_name": name or self.model_name or self.policy._llm_type}

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # These are shown in traces, where a conversation that is given as a context must not be.
        stop, options = self.options_of(stop, kwargs)
        options.pop("context", None)
        if "objectives" in options:
            options["objectives"] = [one.name for one in self._known(options["objectives"])]
        return super()._get_invocation_params(stop=stop, **options)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        stop, options = self.options_of(stop, kwargs)
        asked, context = options.pop("objectives", None), options.pop("context", None)
        aligner = self.get_aligner().settings
        ours = {
            "objectives": [(one.name, one.description) for one in self._known(asked)],
            "context": None if context is None else digest(context),
            "aligner": [self.model_label(), aligner.adapter, aligner.revision, aligner.family],
            "edit": [aligner.max_new_tokens, aligner.temperature, aligner.system],
            "reply": [self.apply, self.keep_original, self.edit_tool_text],
        }
        policy = self.policy._get_llm_string(stop=stop, **options)
        return f"{json.dumps(ours, sort_keys=True)}---{policy}"
