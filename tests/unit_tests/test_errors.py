from __future__ import annotations

import pickle

import pytest

from langchain_metaaligner import errors

KINDS = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, errors.MetaAlignerError)
]


def test_there_are_ten_kinds_of_error_and_their_base():
    assert sorted(one.__name__ for one in KINDS) == [
        "AnswerTooLongError",
        "CheckpointError",
        "EditTimeout",
        "EngineError",
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
