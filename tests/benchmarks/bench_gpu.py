"""Load, memory, speed, and edits by every face, of a model of the 7B's shape: needs 24 GiB of GPU.

`python -m tests.benchmarks.bench_gpu` takes less than ten minutes and prints one table. The weights
are random, in the published repositories' layout (float32 pickles would be 27 GB, so shards are
written in bfloat16), the outputs forced; the tokenizer is LLaMA 2's from the data folder.
`--shape tiny` tries the script out on any machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import EngineError
from tests.benchmarks.bench_edits import measure_many, measure_single
from tests.benchmarks.cases import conversations
from tests.benchmarks.figures import Figures, Pairs
from tests.benchmarks.procedures import Ours
from tests.benchmarks.shapes import SHAPES, write
from tests.benchmarks.table import GPU


def measure(shape: str, count: int) -> dict[str, Any]:
    """Load, memory, and the figures of single edits and of 16 at once."""
    on_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name() if on_gpu else None}
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), shape)
        start = time.perf_counter()
        with load_engine(folder, dtype="bfloat16") as engine:  # type: ignore[attr-defined]
            engine.load()
            found["load, s"] = time.perf_counter() - start
            if on_gpu:
                found["weights, GiB"] = torch.cuda.memory_allocated() / 2**30
            end = engine.tokenizer.eos_token_id
            cases = conversations(engine.prompt_tokenizer, end, max(count, 16))
            ours = Ours(engine)
            measure_single(figures, ours, cases[:count], None)
            measure_many(figures, ours, cases[:16], 1)
            found["faces"] = faces(engine)
            if on_gpu:
                found["most memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found | {"edits": figures.raw()}


def faces(engine: Any) -> dict[str, str]:
    """The seconds that an edit takes by every face; any error but a missing end is one."""
    import asyncio

    from langchain_core.language_models import FakeListChatModel
    from langchain_core.messages import HumanMessage

    from langchain_metaaligner import ChatMetaAligner, MetaAlignerMiddleware, MetaAlignerRunnable

    options: dict[str, Any] = {"engine": engine, "family": "HH-RLHF", "max_new_tokens": 32}
    # What random weights write has no end, which is an error by default.
    options["on_error"] = "pass"
    policy = FakeListChatModel(responses=["Add salt to the water before it boils."])
    asked = [HumanMessage("How do I cook pasta?")]
    chain = policy | MetaAlignerRunnable(**options)
    chat = ChatMetaAligner(policy=policy, **options)

    def agent() -> Any:
        from langchain.agents import create_agent

        middleware = [MetaAlignerMiddleware(**options)]
        return create_agent(policy, middleware=middleware).invoke({"messages": asked})

    ways: dict[str, Any] = {
        "invoke": lambda: chain.invoke(asked),
        "stream": lambda: list(chain.stream(asked)),
        "batch of 4": lambda: chain.batch([asked] * 4),
        "ainvoke": lambda: asyncio.run(chain.ainvoke(asked)),
        "chat model": lambda: chat.invoke(asked),
        "agent": agent,
    }
    found = {}
    for name, way in ways.items():
        start = time.perf_counter()
        try:
            way()
            found[name] = f"{time.perf_counter() - start:.2f} s"
        except EngineError as error:
            if "ran out of tokens" not in str(error):
                raise
            found[name] = f"{time.perf_counter() - start:.2f} s, without an end"
    return found


def rows(found: dict[str, Any]) -> str:
    """What was found, as one table."""
    lines = ["| | |", "| --- | --- |", f"| GPU | {found['gpu'] or 'none: not run on a GPU'} |"]
    told = [name for name in ("load, s", "weights, GiB", "most memory, GiB") if name in found]
    lines += [f"| {name} | {found[name]:.2f} |" for name in told]
    lines += [f"| {name} | {said} |" for name, said in found["faces"].items()]
    for case, against in found["edits"].items():
        for other, pairs in against.items():
            one = Pairs(**pairs)
            passes = f"{median(one.passes):g} passes" if one.passes else ""
            figures = [
                f"{median(one.ours):.2f} s",
                passes,
                f"{median(one.ratios):.1f} times as fast",
            ]
            lines.append(f"| {case}, against {other} | {', '.join(filter(None, figures))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="save the figures")
    given = parser.parse_args()
    if given.shape == "7b" and not torch.cuda.is_available():
        raise SystemExit("A model of the 7B's shape is measured on a GPU only; there is none here.")
    found = measure(given.shape, given.count)
    if given.write:
        GPU.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(rows(found))


if __name__ == "__main__":
    main()
