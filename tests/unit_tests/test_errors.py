from __future__ import annotations

import concurrent.futures
import copy
import pickle
import time
import traceback
from typing import Any

import httpx
import pytest

from langchain_metaaligner import EngineError, errors
from langchain_metaaligner.engines import deadlines
from langchain_metaaligner.engines.base import Request, as_engine
from tests.unit_tests.scripted import ScriptedEngine

KINDS = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, errors.MetaAlignerError)
]


def test_these_are_the_kinds_of_error_and_their_base():
    assert sorted(one.__name__ for one in KINDS) == [
        "AnswerTooLongError",
        "BulkError",
        "CheckpointError",
        "EditTimeout",
        "EngineError",
        "EvaluationError",
        "GateError",
        "GuardError",
        "InputTypeError",
        "LeakError",
        "MetaAlignerError",
        "MissingContextError",
        "OverloadedError",
        "PreferenceDataError",
        "TrainingError",
        "UnknownObjectiveError",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_is_one_that_pydantic_or_langchain_treats_specially(kind):
    assert issubclass(kind, Exception)
    assert not issubclass(kind, ValueError | AssertionError | TypeError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("what was wrong")))
    assert type(again) is kind
    assert str(again) == "what was wrong"


def test_only_what_time_may_heal_is_retryable():
    assert {one.__name__ for one in KINDS if one.retryable} == {"EditTimeout", "OverloadedError"}


def is_repeated_by_langgraph(error: BaseException) -> bool:
    known = pytest.importorskip("langgraph._internal._retry")
    return bool(known.default_retry_on(error))


def is_repeated_by_langchain(error: BaseException) -> bool:
    known = pytest.importorskip("langchain.agents.middleware._retry")
    return bool(known.default_retry_on(error))


class MineError(EngineError):
    """A kind of a user, with an `__init__` of its own."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_does_not_pass_is_a_runtime_error_and_repeated_by_no_default(kind):
    error = kind("what was wrong")
    assert isinstance(error, RuntimeError) is not error.retryable
    assert is_repeated_by_langgraph(error) is error.retryable
    assert is_repeated_by_langchain(error) is error.retryable


@pytest.mark.parametrize("passes", [True, False])
def test_each_engine_error_says_for_itself_whether_it_may_pass(passes):
    mine = MineError("what was wrong", 5)
    mine.retryable = passes
    for error in (EngineError("what was wrong", retryable=passes), mine):
        for one in (
            error,
            copy.copy(error),
            copy.deepcopy(error),
            pickle.loads(pickle.dumps(error)),
        ):
            assert isinstance(one, EngineError)
            assert type(one) is type(error)
            assert one.__class__.__name__ == type(error).__name__
            assert one.retryable is one.is_retryable is passes
            assert isinstance(one, RuntimeError) is not passes
            assert is_repeated_by_langgraph(one) is passes
            assert is_repeated_by_langchain(one) is passes
            assert repr(one) == f"{type(error).__name__}('what was wrong')"
    assert mine.code == 5
    try:
        raise EngineError("what was wrong", retryable=passes)
    except EngineError:
        said = traceback.format_exc()
    assert said.endswith("langchain_metaaligner.errors.EngineError: what was wrong\n")


def test_an_error_after_a_part_was_read_is_final_whatever_it_is():
    for error in (errors.EditTimeout("late"), EngineError("busy", retryable=True), OSError("x")):
        errors.mark_begun(error)
        assert not errors.may_repeat(error)
    late = errors.EditTimeout("late")
    errors.mark_begun(late)
    assert not is_repeated_by_langgraph(late)
    assert not is_repeated_by_langchain(late)
    assert not is_repeated_by_langgraph(pickle.loads(pickle.dumps(late)))


def by_status(status: int) -> list[Exception]:
    request = httpx.Request("POST", "http://localhost/v1")
    response = httpx.Response(status, request=request)
    of_google = type("APIError", (Exception,), {"code": status})
    of_aiohttp = type("ClientResponseError", (Exception,), {"status": status})
    made = [httpx.HTTPStatusError("m", request=request, response=response)]
    made += [of_google("m"), of_aiohttp("m")]
    openai = pytest.importorskip("openai")
    return [*made, openai.APIStatusError("m", response=response, body=None)]


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


PASSING = [
    *(one for status in (408, 429, 500, 502, 503, 529) for one in by_status(status)),
    ConnectionResetError("m"),
    TimeoutError("m"),
    concurrent.futures.TimeoutError("m"),
    httpx.ConnectError("m"),
    httpx.ReadTimeout("m"),
    httpx.RemoteProtocolError("m"),
    MemoryError(),
    type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    OSError("m"),
    Exception("unknown"),
    caused(RuntimeError("wrapped"), ConnectionError("m")),
    caused(ValueError("wrapped"), by_status(503)[0]),
    type("ModelRateLimitError", (ValueError,), {"is_retryable": True})("m"),
    errors.OverloadedError("full"),
    errors.EditTimeout("late"),
    EngineError("m", retryable=True),
]
LASTING = [
    *(one for status in (400, 401, 403, 404, 422) for one in by_status(status)),
    httpx.LocalProtocolError("m"),
    httpx.UnsupportedProtocol("m"),
    ValueError("m"),
    TypeError("m"),
    RuntimeError("NaN"),
    KeyError("m"),
    AttributeError("m"),
    ZeroDivisionError(),
    ImportError("m"),
    FileNotFoundError("m"),
    PermissionError("m"),
    StopIteration(),
    SystemExit(1),
    caused(RuntimeError("wrapped"), by_status(401)[0]),
    type("ModelRefusalError", (Exception,), {"is_retryable": False})("m"),
    EngineError("m"),
]


@pytest.mark.parametrize(
    ("error", "passes"), [*((one, True) for one in PASSING), *((one, False) for one in LASTING)]
)
def test_what_an_engine_raises_may_pass_or_not_by_status_or_class(error: Any, passes: bool):
    (made,) = deadlines.edit(as_engine(ScriptedEngine(error)), [Request(prompt="p", draft="d")])
    assert isinstance(made, errors.MetaAlignerError)
    assert made.retryable is passes
    assert is_repeated_by_langgraph(made) is passes


@pytest.mark.parametrize(("temperature", "passes"), [(0.0, False), (0.7, True)])
def test_a_bad_edit_may_come_out_better_only_where_it_is_sampled(temperature, passes):
    from langchain_metaaligner import Aligner, Edit

    for bad in (Edit(" "), Edit("cut", finish_reason="length")):
        aligner = Aligner(engine=ScriptedEngine(bad), temperature=temperature)
        with pytest.raises(EngineError) as raised:
            aligner.align("a context", "an answer", "honesty")
        assert raised.value.retryable is passes


def test_what_a_message_does_not_quote_stays():
    prompt = "Edit the pair. Human: What is the capital? | Answer: Paris | Edit: "
    said = "HTTP 503 for https://host/v1/completions: the server is out of workers"
    assert errors.without_quotes(said, prompt, "Paris") == said
    assert errors.without_quotes("It said 'Paris'.", prompt, "Paris") == "It said '[…]'."
    assert len(errors.without_quotes("x" * 10_000, prompt)) < 1100


def test_long_prompts_cost_no_time():
    started = time.monotonic()
    for text in ("x" * 10_000_000, "a b\n" * 2_000_000, "| " * 4_000_000):
        errors.without_quotes(text[:5000] + "y", *[text] * 16)
    assert time.monotonic() - started < 4
