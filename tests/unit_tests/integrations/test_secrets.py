"""What a user passes in confidence reaches its addressee, and shows nowhere else."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumpd, dumps
from langchain_core.tracers import BaseTracer
from pydantic import BaseModel

from langchain_metaaligner import (
    Aligner,
    ChatMetaAligner,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    hushed,
)
from langchain_metaaligner.options import (
    cache_key,
    hidden,
    load_key,
    masked,
    parse_load_options,
    revealed,
)
from tests.unit_tests.scripted import Policy, ScriptedEngine

SECRET = "SEKRET-123"


@dataclass
class Account:
    """A user's own record."""

    name: str
    token: str


class Login(BaseModel):
    """A user's own model."""

    password: str


class Row(NamedTuple):
    """A user's own tuple."""

    name: str
    api_key: str


NESTED = [
    {"token": SECRET},
    {"use_auth_token": SECRET},
    {"hf_token": SECRET},
    {"accessToken": SECRET},
    {"X-Api-Key": SECRET},
    {"apikey": SECRET},
    {"client_secret": SECRET},
    {"db_password": SECRET},
    {"Authorization": f"Bearer {SECRET}"},
    {"auth": ("user", SECRET)},
    {"keys": {"a": [{"pwd": SECRET}]}},
    {"headers": {"X-Anything": SECRET}},
    {"extra_headers": {"a": {"b": SECRET}}},
    {"default_headers": [{"value": SECRET}]},
    {"cookies": {"session": SECRET}},
    {"credentials": {"id": SECRET}},
    {"env": {"HOME": SECRET}},
    {"base_url": f"https://user:{SECRET}@host/v1"},
    {"proxies": {"https": f"http://user:{SECRET}@proxy:80"}},
    {"endpoint": f"https://host/v1?version=1&api_key={SECRET}"},
    {"callback": f"https://host/v1#access_token={SECRET}"},
    {"dsn": f"jdbc:postgresql://user:{SECRET}@host/db"},
    {"note": f"Ask https://user:{SECRET}@host/v1 for it."},
    {"proxy": f"user:{SECRET}@proxy:80"},
    {"sent": f"Bearer {SECRET}"},
    {"connection_string": f"AccountKey={SECRET};x=1"},
    {"creds": {"name": SECRET}},
    {"secrets": {"name": SECRET}},
    {"user_token": SECRET.encode()},
    {"user_token": {SECRET}},
    {"user_token": frozenset({SECRET})},
    {"headers": UserDict({"X-Anything": SECRET})},
    {"headers": Account("me", SECRET)},
    {"x": [Account("me", SECRET)]},
    {"x": Login(password=SECRET)},
    {"x": {"y": Row("me", SECRET)}},
]


@pytest.mark.parametrize("given", NESTED)
def test_a_secret_is_told_by_its_name_wherever_it_stands(given: Any) -> None:
    kept = copy.deepcopy(given)
    for one in (hidden(given), masked(given), [hidden([given])], hidden(hidden(given))):
        assert SECRET not in repr(one)
        assert SECRET not in json.dumps(one, default=str)
    assert revealed(hidden(given)) == kept == given
    assert revealed(pickle.loads(pickle.dumps(hidden(given)))) == kept


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 7, "use_auth_token": True, "token": None, "api_key": ""},
        {"tiktoken_model_name": "gpt-4", "credentials_profile_name": "me", "tokenizer": "spm"},
        {"model": "gpt-5", "monkey": "banana", "seed": 1, "url": "https://host/a@b?keyword=x"},
        {"tools": [{"name": "f", "parameters": {"type": "object"}}], "stop": ["a"]},
        {"x": Row("me", ""), "y": {"a"}, "z": b"plain", "mail": "me@host", "to": "mailto:me@host"},
        {"prompt": "Basic facts: at 12:30 see https://host/x?a=1, e.g. me@host", "w": "a: b@c"},
    ],
)
def test_what_is_no_secret_is_shown(given: Any) -> None:
    assert masked(given) == hidden(given) == given


SHOWN: dict[str, Callable[[Any], Any]] = {
    "repr": repr,
    "str": str,
    "fields": lambda one: repr(getattr(one, "options", one)),
    "model_dump": lambda one: repr(getattr(one, "options", one).model_dump()),
    "dumpd": lambda one: json.dumps(dumpd(one), default=repr),
    "dumps": dumps,
    "load key": lambda one: repr(pickle.dumps(load_key(getattr(one, "options", one)))),
    "cache key": lambda one: repr(cache_key(getattr(one, "options", one))),
}
FACES: dict[str, Callable[..., Any]] = {
    "Aligner": Aligner,
    "MetaAlignerRunnable": MetaAlignerRunnable,
    "MetaAlignerMiddleware": MetaAlignerMiddleware,
    "ChatMetaAligner": lambda **given: ChatMetaAligner(policy=Policy(), **given),
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("given", NESTED[::3])
def test_secrets_among_a_models_arguments_show_in_no_form_of_the_object(
    face: str, given: Any
) -> None:
    made = FACES[face](model_kwargs=dict(given))
    copies = made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))
    for one in copies if given.keys() - {"token", "hf_token"} else copies[:1]:
        for name, shown in SHOWN.items():
            assert SECRET not in str(shown(one)), name
        own = getattr(one, "options", one)
        assert SECRET in repr(revealed(own.model_kwargs)) or own.token is not None


@pytest.mark.parametrize("face", FACES)
def test_the_key_of_a_server_shows_in_no_form_of_the_object(face: str) -> None:
    pytest.importorskip("openai")
    made = FACES[face](model="https://host/v1", api_key=SECRET)
    for one in (made, copy.deepcopy(made)):
        for name, shown in SHOWN.items():
            assert SECRET not in str(shown(one)), name


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    "given",
    [
        {"hf_token": SECRET},
        {"model_kwargs": SECRET},
        {"max_new_tokens": SECRET},
        {"device_map": "cpu", "timeout": SECRET},
        {"on_error": SECRET},
        {"engine": SECRET},
        {"engine": Login(password=SECRET)},
        {"engine": {"token": SECRET}},
        {"dtype": {"token": SECRET}},
        {"model": f"https://user:{SECRET}@host/v1"},
        {"model": f"https://host/v1?api-key={SECRET}"},
    ],
)
def test_no_error_shows_what_was_given(face: str, given: Any) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of several classes
        FACES[face](**given)
    said = "".join(traceback.format_exception_only(raised.value))
    assert next(iter(given)) in said or "timeout" in said or "address" in said
    assert SECRET not in said
    assert SECRET not in repr(getattr(raised.value, "errors", list)())


def test_a_misspelt_option_of_an_engine_is_not_shown() -> None:
    with pytest.raises(TypeError, match="hf_token") as raised:
        parse_load_options({"hf_token": SECRET})
    assert SECRET not in str(raised.value)


class Recorder(BaseTracer):
    """Keeps all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.roots.append(run)


def flat(runs: list[Any]) -> Iterator[Any]:
    for one in runs:
        yield one
        yield from flat(one.child_runs)


class Keeping(Policy):
    """Keeps the options of its calls."""

    got: list[dict[str, Any]] = []  # noqa: RUF012 - pydantic copies defaults
    default_headers: dict[str, str] | None = None

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        self.got.append({name: one for name, one in kwargs.items() if "extra" in name})
        return super()._generate(*args, **kwargs)


HEADERS = {"extra_headers": {"Authorization": SECRET}, "extra_query": {"key": SECRET}}
BOUND: dict[str, Callable[[Any], Any]] = {
    "bound policy": lambda policy: ChatMetaAligner(policy=policy.bind(**HEADERS)),
    "policy_options": lambda policy: ChatMetaAligner(policy=policy, policy_options=HEADERS),
    "bound model": lambda policy: ChatMetaAligner(policy=policy).bind(**HEADERS),
    "the policy's own": lambda policy: ChatMetaAligner(
        policy=policy.model_copy(update={"default_headers": HEADERS["extra_headers"]}),
        policy_options=HEADERS,
    ),
}


class Named(Keeping):
    """Has fields whose names hold the names of secrets."""

    tiktoken_model_name: str = "a"
    tokenizer: str = "b"
    session_token: str = "c"


def test_a_bound_model_prints_all_but_its_secrets() -> None:
    model = Named(tiktoken_model_name="gpt-4", tokenizer="spm", session_token=SECRET)
    for one in (hushed(model), hushed(model.bind(seed=1)), hushed(model.bind(**HEADERS).bind(a=1))):
        assert "tiktoken_model_name='gpt-4', tokenizer='spm'" in repr(one)
        assert SECRET not in repr(one)


@pytest.mark.parametrize("bound", BOUND)
def test_headers_reach_the_policy_and_no_trace_repr_or_cache(bound: str) -> None:
    policy, recorder = Keeping(got=[]), Recorder()
    made = BOUND[bound](policy)
    model = getattr(made, "bound", made)
    for one in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        whole = one.with_config(configurable={}, callbacks=[recorder])
        getattr(one, "bound", one).engine = ScriptedEngine()
        assert whole.invoke("q").text == "A reply. (edited)"
        assert "".join(piece.text for piece in whole.stream("q")) == "A reply. (edited)"
        assert SECRET not in repr(one)
    assert policy.got[0] == HEADERS
    for run in flat(recorder.roots):
        assert SECRET not in repr((run.extra, run.tags, run.serialized, run.error, run.outputs))
    assert SECRET not in repr((dumpd(model), model.model_dump(exclude={"policy"})))
    assert SECRET not in model._get_llm_string(**getattr(made, "kwargs", {}))


@pytest.mark.parametrize(
    "made",
    [
        lambda: ChatMetaAligner(policy=Policy()).bind(**HEADERS),
        lambda: ChatMetaAligner(policy=Policy()).bind(**HEADERS).with_retry(),
        lambda: hushed(Policy().bind(**HEADERS)),
        lambda: hushed(ChatMetaAligner(policy=Policy()).bind(**HEADERS)),
        lambda: Policy().bind(**HEADERS) | MetaAlignerRunnable(),
        lambda: Policy().with_config(configurable=HEADERS) | MetaAlignerRunnable(),
    ],
)
def test_what_is_bound_to_a_model_shows_in_no_form_of_the_chain(made: Any) -> None:
    chain = made()
    for name, shown in SHOWN.items():
        if "key" not in name:
            assert SECRET not in str(shown(chain)), name


def test_a_dump_keeps_what_only_looks_like_a_secret() -> None:
    tools = [{"type": "function", "function": {"parameters": {"headers": {"type": "string"}}}}]
    chain = FakeListChatModel(responses=["a"]).bind(tools=tools, seed=1) | MetaAlignerRunnable()
    first = dumpd(chain)["kwargs"]["first"]["kwargs"]
    assert first["kwargs"] == {"tools": tools, "seed": 1}


@pytest.mark.parametrize("face", FACES)
def test_what_is_bound_to_a_model_that_edits_shows_in_no_form_of_the_object(face: str) -> None:
    for model in (
        Policy().bind(**HEADERS),
        Policy().bind(**HEADERS).with_fallbacks([Policy()]),
        Keeping(default_headers=HEADERS["extra_headers"]),
    ):
        made = FACES[face](model=model)
        for name in ("repr", "str", "fields", "dumpd", "dumps", "cache key"):
            assert SECRET not in str(SHOWN[name](made)), name


def test_a_pipe_prints_nothing_that_is_bound_inside_its_steps() -> None:
    bound = Policy().bind(**HEADERS)
    assert SECRET not in repr(bound.with_fallbacks([bound]) | MetaAlignerRunnable())
