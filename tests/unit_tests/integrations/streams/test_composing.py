"""Composing other people's chains: nothing of theirs is called, and each step is looked at once."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough

from langchain_metaaligner import MetaAlignerRunnable
from langchain_metaaligner.integrations import hushing
from tests.unit_tests.integrations.streams.scripted import Engine, Policy

ALIGNER = MetaAlignerRunnable(engine=Engine())


class Read(BaseException):
    """Not even an `Exception`: it would end a program."""


class Property:
    @property
    def bound(self) -> Any:
        raise Read

    def __getattr__(self, name: str) -> Any:
        raise Read


class Class:
    @property
    def __class__(self) -> Any:
        raise Read


class Attributes:
    @property
    def __dict__(self) -> Any:
        raise Read


class Everything:
    def __getattribute__(self, name: str) -> Any:
        raise Read

    def __eq__(self, other: object) -> bool:
        raise Read

    def __hash__(self) -> int:
        raise Read

    def __bool__(self) -> bool:
        raise Read


class Meta(type):
    def __instancecheck__(cls, one: Any) -> bool:
        raise Read

    def __hash__(cls) -> int:
        raise Read


class Metaclass(metaclass=Meta):
    pass


class Function(Property):
    def __call__(self, one: Any) -> Any:
        return one


class Database(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise Read

    def __iter__(self) -> Iterator[str]:
        raise Read

    def __len__(self) -> int:
        raise Read


class Rows(dict[str, Any]):
    def values(self) -> Any:
        raise Read

    def __iter__(self) -> Iterator[str]:
        raise Read


class Lines(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise Read


class Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        raise Read


class Module(ModuleType):
    @property
    def tool(self) -> Any:
        raise Read


class Forwarding(RunnableLambda[Any, Any]):
    @property
    def bound(self) -> Any:
        raise Read

    @property
    def steps(self) -> Any:
        raise Read


# Made in the test: pytest looks into what it is given.
Traps: dict[str, Callable[[], Any]] = {
    "a property": lambda: Property(),
    "a class": lambda: Class(),
    "a dict": lambda: Attributes(),
    "every attribute": lambda: Everything(),
    "a metaclass": lambda: Metaclass,
    "an object of a metaclass": lambda: Metaclass(),
    "an object to call": lambda: Function(),
    "a database": lambda: Database(),
    "rows": lambda: Rows(a=1),
    "lines": lambda: Lines([1]),
    "a lazy module": lambda: Lazy("lazy"),
    "a module": lambda: Module("module"),
    "a runnable": lambda: Forwarding(lambda one: one),
}


class Holding:
    def __init__(self, held: Any) -> None:
        self.held = held

    def method(self, one: Any) -> Any:
        return one

    def __call__(self, one: Any) -> Any:
        return one


def with_global(trap: Any) -> Any:
    code: Any = (lambda one: tool.bound(one)).__code__  # type: ignore[name-defined]  # noqa: F821
    return FunctionType(code, {"tool": trap})


Ways: dict[str, Callable[[Any], Any]] = {
    "in a closure": lambda trap: lambda _: trap,
    "as a default": lambda trap: lambda one, trap=trap: (one, trap),
    "as a global": with_global,
    "in a list": lambda trap: lambda _, traps=[trap]: traps,
    "in a partial": lambda trap: functools.partial(lambda _, one: one, trap),
    "in a method's object": lambda trap: Holding(trap).method,
    "in an object": lambda trap: RunnableLambda(Holding(trap)),
    "in a dict": lambda trap: {"a": lambda _: trap},
    "in a binding": lambda trap: RunnableLambda(lambda one: one).bind(tool=trap),
    "in a config": lambda trap: RunnableLambda(lambda one: one).with_config(metadata={"a": trap}),
}


@pytest.mark.parametrize("trap", Traps)
def test_nothing_of_what_a_step_holds_is_called_or_read(trap: str) -> None:
    policy, made = Policy(), Traps[trap]()
    for way, held in Ways.items():
        assert (policy | held(made)).first is policy, way


@pytest.mark.parametrize("kind", [Database, Property])
def test_what_a_trap_stands_beside_is_still_found(kind: Any) -> None:
    trap = kind()
    chain: Any = Policy() | RunnableLambda(lambda reply: (trap, ALIGNER.invoke(reply)))
    assert "nostream" in chain.first.config["tags"]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The objects that are looked into."""
    looked: list[Any] = []
    look = hushing._parts_of

    def count(one: Any) -> Any:
        looked.append(one)
        return look(one)

    monkeypatch.setattr(hushing, "_parts_of", count)
    return looked


@pytest.mark.parametrize(
    "compose", [lambda chain, step: chain | step, lambda chain, step: step | chain]
)
def test_each_step_of_a_chain_is_looked_at_once(looked_at: list[Any], compose: Any) -> None:
    chain: Any = RunnablePassthrough() | RunnablePassthrough()
    steps = [RunnableLambda(lambda one: one) for _ in range(50)]
    looked_at.clear()
    for step in steps:
        chain = compose(chain, step)
    for step in steps:
        assert sum(one is step for one in looked_at) <= 2
    assert len(looked_at) <= 200


def test_a_chain_of_two_steps_is_looked_at_anew_for_another_model(looked_at: list[Any]) -> None:
    step = RunnableLambda(lambda reply: late["edit"].invoke(reply))
    late: dict[str, Any] = {}
    assert RunnablePassthrough() | step
    late["edit"] = ALIGNER  # found by whatever is composed from now on
    chain: Any = Policy() | step
    assert "nostream" in chain.first.config["tags"]


def test_what_a_function_names_is_looked_at_within_bounds(looked_at: list[Any]) -> None:
    many = {number: RunnableLambda(lambda one: one) for number in range(10_000)}
    steps = {str(number): lambda _, n=number: (n, many) for number in range(3_000)}
    assert Policy() | RunnableParallel(steps)
    assert len(looked_at) <= 2_000


def test_steps_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    composition = hushing._Composition(lambda _: False)
    for _ in range(20):
        composition.hush_steps(RunnablePassthrough() | RunnableLambda(lambda one: one))
    gc.collect()
    assert not composition._found
