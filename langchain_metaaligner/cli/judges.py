"""Judges by their names, for `metaaligner evaluate`."""

from __future__ import annotations

from typing import Any

import typer

from langchain_metaaligner.cli.objects import find_object
from langchain_metaaligner.errors import first_line

_REWARD = "reward:"
WORDS = (
    "Who judges: a chat model as LangChain's init_chat_model names it, such as openai:gpt-5-mini;"
    " reward:MODEL, the hub id or folder of a reward model, or reward:OBJECTIVE=MODEL,… for one"
    " per objective; or a function, MODULE:FUNCTION."
)
"""What an option that takes a judge says in the help."""


def find_judge(name: str, *, option: str) -> Any:
    """Find a judge.

    Args:
        name: Its name, as `WORDS` says.
        option: The option that names it.

    Returns:
        The judge, for `evaluate`.

    Raises:
        typer.BadParameter: There is no such judge.
    """
    if name.startswith(_REWARD):
        return _reward_models(name.removeprefix(_REWARD))
    found = find_object(name)
    if found is not None:
        return found
    from langchain.chat_models import init_chat_model

    try:
        return init_chat_model(name)
    except ImportError:
        raise
    except Exception as error:
        message = f"{name!r} is no judge: {first_line(error)} {WORDS}"
        raise typer.BadParameter(message, param_hint=option) from error


def _reward_models(named: str) -> Any:
    from langchain_metaaligner.training.scoring.reward_models import RewardModel

    pairs = [one.partition("=") for one in named.split(",")]
    if "=" not in named:
        return RewardModel(named)
    return {objective.strip(): RewardModel(model.strip()) for objective, _, model in pairs}
