from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from langchain_metaaligner.engines.leases import Leases
from langchain_metaaligner.engines.local import engine as local
from langchain_metaaligner.engines.local import placement as placing
from langchain_metaaligner.engines.local.engine import LocalEngine
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import byte_level_tokenizer, save

# Tiny models gain nothing from threads, and lose much where the cores are busy.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_engine_of_another_test(monkeypatch) -> None:
    """An error that a test keeps also keeps the engine that raised it, for others to share."""
    monkeypatch.setattr(local, "_shared", Leases())


@pytest.fixture(autouse=True)
def _float32_unless_asked_otherwise(monkeypatch) -> None:
    """What is compared token by token must not depend on what this machine's CPU is fast in."""
    monkeypatch.setattr(placing, "CPU_BFLOAT16", False)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint with a tokenizer like LLaMA 2's."""
    return save(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint with a byte-level tokenizer and a chat template."""
    return save(tmp_path_factory.mktemp("checkpoints") / "chat", tokenizer=byte_level_tokenizer())


@pytest.fixture
def engine(checkpoint) -> Iterator[LocalEngine]:
    loaded = load_engine(str(checkpoint))
    assert isinstance(loaded, LocalEngine)
    yield loaded
    loaded.close()


@pytest.fixture
def chat_engine(chat_checkpoint) -> Iterator[LocalEngine]:
    loaded = load_engine(str(chat_checkpoint))
    assert isinstance(loaded, LocalEngine)
    yield loaded
    loaded.close()


@pytest.fixture
def connections(monkeypatch) -> list[object]:
    """Every attempt to reach a network, each of which fails."""
    tried: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        tried.append(args)
        message = "no network in this test"
        raise OSError(message)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


class Passes:
    """Counts an engine's forward passes, and holds them up on request."""

    def __init__(self, engine: LocalEngine) -> None:
        self.count = 0
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.prompts: list[tuple[int, int]] = []
        self._hook = engine.model.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, module: object, args: object, kwargs: dict) -> None:
        self.count += 1
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.prompts.append(tuple(ids.shape))
        self.began.set()
        assert self.gate.wait(30)

    def remove(self) -> None:
        self.gate.set()
        self._hook.remove()


@pytest.fixture
def passes(engine) -> Iterator[Passes]:
    counted = Passes(engine)
    yield counted
    counted.remove()
