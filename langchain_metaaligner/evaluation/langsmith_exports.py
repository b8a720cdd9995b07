"""Finds conversations and replies in what LangSmith exports: data sets, experiments and runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_metaaligner.training.data.fields import BadRowError
from langchain_metaaligner.training.data.pairs import Problem
from langchain_metaaligner.training.data.rows import Row

# Names under which people keep the user's question, a reply, and the conversation's identity.
_QUESTIONS = ("input", "question", "query", "prompt", "text", "user_input", "human_input")
_REPLIES = ("output", "answer", "response", "reply", "text", "content", "completion", "result")
_HISTORIES = ("chat_history", "history")
_THREADS = ("thread_id", "session_id", "conversation_id")
_SPEAKERS = {
    "human": "user", "user": "user", "HumanMessage": "user", "HumanMessageChunk": "user",
    "ai": "assistant", "assistant": "assistant", "AIMessage": "assistant",
    "AIMessageChunk": "assistant", "system": "system", "developer": "system",
    "SystemMessage": "system", "tool": "tool", "ToolMessage": "tool", "function": "tool",
}  # fmt: skip


def read_export(rows: Sequence[Row]) -> tuple[list[Row], list[Problem]]:
    """Read exported examples, results of experiments, or runs.

    Of the runs of one trace, the calls of models are used if there are any, else the outermost
    run: the same reply would otherwise count several times.

    Args:
        rows: Rows with `inputs` and `outputs`, as mappings, as JSON, or with a column for each of
            their fields (`inputs.question`).

    Returns:
        Rows with `context`, `answer`, `reference`, `policy` and `conversation`, and the problems
        of the others.
    """
    used: list[Row] = []
    problems: list[Problem] = []
    with_models = {_trace(row.values) for row in rows if row.values.get("run_type") == "llm"}
    for row in rows:
        try:
            used.append(Row(row.place, _read(row.values, with_models)))
        except BadRowError as error:
            problems.append(Problem(row.place, error.kind, error.detail))
    return used, problems


def _read(values: Mapping[str, Any], with_models: set[str]) -> dict[str, Any]:
    kind = values.get("run_type")
    if kind not in (None, "", "llm", "chain"):
        raise BadRowError(kind="answer", detail=f"the run is a {kind}, and has no reply of a model")
    if kind == "chain" and _trace(values) in with_models:
        detail = "the reply is read from the run of the model in the same trace"
        raise BadRowError(kind="duplicate", detail=detail)
    if kind == "chain" and values.get("parent_run_id"):
        detail = "the reply is read from the outermost run of the same trace"
        raise BadRowError(kind="duplicate", detail=detail)
    if values.get("error"):
        raise BadRowError(kind="missing", detail="the run failed, so there is no reply")
    given = _part(values, "inputs", "input")
    made = _part(values, "outputs", "output")
    wanted = _part(values, "reference_outputs", "reference")
    before = _context(given)
    turns, answer = _reply(made)
    if turns and (before is None or not _messages(before)):
        before = turns  # an agent's state holds the whole conversation
    if before is None:
        raise BadRowError(kind="missing", detail="the inputs hold no question and no messages")
    if answer is None and wanted:
        made, wanted = wanted, {}  # an example that nobody has answered but its author
        _, answer = _reply(made)
    if answer is None:
        raise BadRowError(kind="missing", detail="the outputs hold no reply")
    known = _metadata(values)
    return {
        "context": before,
        "answer": answer,
        "reference": _reply(wanted)[1],
        "policy": str(known.get("ls_model_name") or ""),
        "conversation": next((str(known[one]) for one in _THREADS if known.get(one)), ""),
    }


def _trace(values: Mapping[str, Any]) -> str:
    return str(values.get("trace_id") or values.get("id") or values.get("run_id") or "")


def _metadata(values: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = _decoded(values.get("extra"))
    inner = _decoded(extra.get("metadata")) if isinstance(extra, Mapping) else None
    outer = _decoded(values.get("metadata"))
    return {
        **(outer if isinstance(outer, Mapping) else {}),
        **(inner if isinstance(inner, Mapping) else {}),
    }


def _part(values: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The inputs or outputs of a row, however they are written."""
    for name in names:
        found = _decoded(values.get(name))
        if isinstance(found, Mapping):
            return found
        if found is not None and found != "":
            return {name: found}
    for name in names:
        found = {
            key.removeprefix(f"{name}."): value
            for key, value in values.items()
            if key.startswith(f"{name}.") and value is not None and value != ""
        }
        if found:
            return found
    return {}


def _decoded(given: Any) -> Any:
    """What a JSON text holds; other text as it is."""
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _context(given: Mapping[str, Any]) -> list[dict[str, Any]] | str | None:
    """The conversation in a run's inputs: messages, or a whole context as text."""
    if turns := _messages(_decoded(given.get("messages"))):
        return turns
    if isinstance(whole := given.get("context"), str) and whole.startswith("\n\nHuman:"):
        return whole
    past = next((turns for one in _HISTORIES if (turns := _messages(_decoded(given.get(one))))), [])
    names = [one for one in _QUESTIONS if given.get(one)]
    names += [one for one in given if len(given) == 1]
    for name in names:
        asked = _decoded(given[name])
        if turns := _messages(asked):
            return [*past, *turns]
        if isinstance(asked, Mapping) and (inner := _context(asked)) is not None:
            return [*past, *inner] if past and isinstance(inner, list) else inner
        if isinstance(asked, str) and asked.strip():
            return [*past, {"role": "user", "content": asked}]
    return past or None


def _reply(made: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The turns before a reply, where the outputs hold them, and its text."""
    made = {name: _decoded(value) for name, value in made.items()}
    if "generations" in made:
        return [], _generated(made["generations"])
    choices = made.get("choices")
    if isinstance(choices, Sequence) and choices and isinstance(choices[0], Mapping):
        made = {"messages": [choices[0].get("message")]}
    if turns := _messages(made.get("messages")):
        last = turns[-1]
        return (turns[:-1], _plain(last["content"])) if last["role"] == "assistant" else ([], None)
    if made.get("role") and (message := _message(made)) is not None:
        return [], _plain(message["content"])
    names = [one for one in _REPLIES if made.get(one)]
    names += [one for one in made if len(made) == 1]
    for name in names:
        found = _reply_in(made[name])
        if found[1] is not None:
            return found
    return [], None


def _reply_in(value: Any) -> tuple[list[dict[str, Any]], str | None]:
    """The same, in one field of the outputs."""
    if isinstance(value, str):
        return [], value if value.strip() else None
    if (message := _message(value)) is not None:
        return [], _plain(message["content"]) if message["role"] == "assistant" else None
    if turns := _messages(value):
        return _reply({"messages": turns})
    return _reply(value) if isinstance(value, Mapping) else ([], None)


def _generated(generations: Any) -> str | None:
    """The text of the first generation of a call."""
    while isinstance(generations, Sequence) and not isinstance(generations, str):
        generations = generations[0] if generations else None
    if not isinstance(generations, Mapping):
        return None
    text = generations.get("text") or (_message(generations.get("message")) or {}).get("content")
    return _plain(text)


def _plain(content: Any) -> str | None:
    """The text of a message's content."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [one if isinstance(one, str) else one.get("text") for one in content if one]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) and content.strip() else None


def _messages(given: Any) -> list[dict[str, Any]]:
    """The messages of a list, of whatever form; none if it holds anything else."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        return []
    found = [_message(one) for one in given]
    if found and all(found):
        return [one for one in found if one]
    # A batch of one, as models are called.
    return _messages(given[0]) if len(given) == 1 else []


def _message(given: Any) -> dict[str, Any] | None:
    """A message as role and content, from the forms in which runs are written."""
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        who, content = given
        role = _SPEAKERS.get(who) if isinstance(who, str) else None
        return {"role": role, "content": content} if role and isinstance(content, str) else None
    if not isinstance(given, Mapping):
        return None
    inner = given
    who: Any = given.get("role") or given.get("type")
    if given.get("lc") and isinstance(given.get("kwargs"), Mapping):  # LangChain's serialised form
        inner = given["kwargs"]
        name = given.get("id")
        who = name[-1] if isinstance(name, list) and name else inner.get("type")
    elif isinstance(given.get("data"), Mapping):  # the form of `messages_to_dict`
        inner = given["data"]
    role = _SPEAKERS.get(who) if isinstance(who, str) else None
    if role is None or not isinstance(inner.get("content"), str | list):
        return None
    content = inner["content"]
    if role == "tool":
        return {
            "role": "tool",
            "content": content,
            "tool_call_id": str(inner.get("tool_call_id") or ""),
        }
    return {"role": role, "content": content}
