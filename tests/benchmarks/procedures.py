"""The ways to make an edit that are compared: transformers', llama.cpp's and this package's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import fmean
from typing import Any, TypeVar

import torch
from transformers import LogitsProcessorList

from langchain_metaaligner.engines.base import Request
from tests.benchmarks.cases import HUMAN, Case
from tests.benchmarks.forcing import Forced, counted, forced

MOST = 400
SAMPLED = 6
LOOKUP = 10
"""Tokens that prompt lookup tries: what transformers' own guide takes."""

T = TypeVar("T")
Output = tuple[list[int], list[int]]
"""A prompt's tokens, and the output's with the end."""


def timed(work: Callable[[], Any]) -> float:
    # With one thread the processor's time is the work's own, whatever else runs on the machine.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def apart(work: Callable[[], T]) -> T:
    """Do something in a thread that ends with it.

    The engine's own thread is the only one of an application to run models: OpenMP slows all of
    them down where several have done so.
    """
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(work).result()


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """Run a model as transformers has it, without what this package exchanges in its layers."""
    exchanged = [vars(layer) for layer in model.modules() if "forward" in vars(layer)]
    ours = [layer.pop("forward") for layer in exchanged]
    try:
        yield
    finally:
        for layer, forward in zip(exchanged, ours, strict=True):
            layer["forward"] = forward


def generate(model: Any, rows: Sequence[Output], *, most: int = MOST, **more: Any) -> float:
    """Take the time of the authors' procedure, `generate` with left padding, greedy.

    Args:
        model: A model of transformers.
        rows: Prompts with the outputs that are forced on them.
        most: Most tokens of an output.
        **more: What differs from the authors' procedure.

    Returns:
        Seconds.
    """
    end = rows[0][1][-1]
    width = max(len(prompt) for prompt, _ in rows)
    force = Forced(width, [output for _, output in rows], end)
    more = {"logits_processor": LogitsProcessorList([force]), "max_new_tokens": most} | more
    return _generate(model, [prompt for prompt, _ in rows], end, **more)[0]


def generate_freely(
    model: Any, prompts: Sequence[list[int]], end: int, *, most: int
) -> tuple[float, list[list[int]]]:
    """Let the authors' procedure write what the model has to say.

    Args:
        model: A model of transformers.
        prompts: Their tokens.
        end: The token that ends an output.
        most: Most tokens of an output.

    Returns:
        Seconds, and the outputs' tokens without the end.
    """
    seconds, made = _generate(model, prompts, end, max_new_tokens=most)
    return seconds, [row[: row.index(end)] if end in row else row for row in made]


def _generate(
    model: Any, prompts: Sequence[list[int]], end: int, **more: Any
) -> tuple[float, list[list[int]]]:
    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    ids = [[end] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in pads]
    settings = {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
        "pad_token_id": end,
        "eos_token_id": end,
        "use_cache": True,
        "do_sample": False,
    } | more
    made: list[Any] = []
    with plain(model):
        seconds = apart(lambda: timed(lambda: made.append(model.generate(**settings))))
    return seconds, made[0][:, width:].tolist()


def prompt_lookup(model: Any, row: Output) -> float:
    """Take the time of transformers' own drafts from the prompt."""
    return generate(model, [row], prompt_lookup_num_tokens=LOOKUP)


def without_cache(model: Any, row: Output) -> float:
    """Estimate the time of the authors' procedure with their repository's `use_cache: false`.

    Each of its passes reads everything anew. Some passes, evenly spread over the output, are
    timed and their mean is taken for each: all of them would take minutes.
    """
    prompt, output = row
    places = [round(n * (len(output) - 1) / (SAMPLED - 1)) for n in range(SAMPLED)]
    passes = [
        generate(model, [(prompt + output[:at], output[at:])], most=1, use_cache=False)
        for at in places
    ]
    return fmean(passes) * len(output)


class Ours:
    """This package's engine, with forced outputs.

    Args:
        engine: A local engine that is loaded.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.model = engine.model
        self._queue = engine.scheduler

    def forget(self) -> None:
        """Keep nothing of earlier prompts."""
        self._queue.prefixes.clear()

    @contextmanager
    def writing(self, rows: Sequence[Output]) -> Iterator[list[int]]:
        """Force outputs; the sizes of the passes that are made meanwhile."""
        outputs = {tuple(prompt): output for prompt, output in rows}
        with forced(self._queue.decoder, outputs), counted(self.model) as sizes:
            yield sizes

    def one(self, case: Case, name: str, *, turns: bool = False) -> tuple[float, int]:
        """Make one edit with nothing kept but, if so wanted, the head and the earlier turns.

        Returns:
            Seconds and passes.
        """
        self.forget()
        if turns:
            self.engine.warm(case.prompt.text[: case.prompt.text.rfind(HUMAN)])
        with self.writing([(case.ids, case.edits[name])]) as sizes:
            seconds = timed(lambda: self._edit(request(case), case.edits[name]))
        return seconds, len(sizes)

    def many(
        self, cases: Sequence[Case], names: Sequence[str], *, threads: bool
    ) -> tuple[float, int]:
        """Make edits at once, of one caller or of a thread each.

        Returns:
            Seconds and passes.
        """
        self.forget()
        requests = [request(case) for case in cases]
        outputs = [case.edits[name] for case, name in zip(cases, names, strict=True)]
        rows = [(case.ids, case.edits[name]) for case, name in zip(cases, names, strict=True)]
        with self.writing(rows) as sizes:
            if not threads:
                return timed(lambda: self.engine.edit(requests)), len(sizes)
            with ThreadPoolExecutor(len(requests)) as pool:
                seconds = timed(lambda: list(pool.map(self._edit, requests, outputs)))
            return seconds, len(sizes)

    def _edit(self, one: Request, output: Sequence[int]) -> None:
        made = self.engine.edit([one])[0].usage["output_tokens"]
        if made != len(output) - 1:
            message = f"{made} tokens were written, not the {len(output) - 1} that were forced."
            raise RuntimeError(message)


def request(case: Case) -> Request:
    return Request(case.prompt.text, draft=case.prompt.draft, max_new_tokens=MOST)
