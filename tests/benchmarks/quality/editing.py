"""Makes the edits through the public API, in pieces that survive a kill."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_metaaligner import Aligner, EngineError
from tests.benchmarks.quality.cases import Case

BATCH = 8


def options(given: Iterable[str]) -> dict[str, Any]:
    """Read options of `Aligner` from a command line.

    Args:
        given: Each as `name=value`; what is no JSON is text.

    Returns:
        The options.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise SystemExit(f"An option is NAME=VALUE, not {text!r}.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def run_name(adapter: Path, dtype: str, options: Mapping[str, Any]) -> str:
    """Name the weights and options: what was edited with others is never mixed in."""
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    more = [f"{name}={json.dumps(value)}" for name, value in sorted(options.items())]
    return " ".join([hashlib.sha256(weights).hexdigest()[:12], dtype, *more])


def kept(file: Path, run: str) -> dict[str, dict[str, Any]]:
    """Read the edits of an earlier start; a line that a kill tore is cut off.

    Args:
        file: JSON lines, or nothing yet.
        run: The name of the weights.

    Returns:
        The rows by the key of their case.
    """
    if not file.exists():
        return {}
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        file.write_bytes(whole)
    rows = [json.loads(line) for line in whole.decode().splitlines()]
    others = {row["run"] for row in rows} - {run}
    if others:
        raise SystemExit(
            f"{file} holds edits by other weights ({', '.join(sorted(others))}) than these ({run})."
            " Give another --out, or remove the file."
        )
    return {row["key"]: row for row in rows}


def make(
    aligner: Aligner,
    cases: Iterable[Case],
    file: Path,
    run: str,
    *,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, dict[str, Any]]:
    """Edit what has no edit yet, writing every batch down at once.

    Args:
        aligner: Makes the edits.
        cases: What to edit; what several bars share is edited once.
        file: JSON lines that are added to.
        run: The name of the weights.
        say: Told how far it is.

    Returns:
        Rows by the key of their case: `edit` is `None` and `error` is set where the engine gave
        no edit; `seconds` is the batch's time divided by its size.
    """
    done = kept(file, run)
    todo = list({case.key: case for case in cases if case.key not in done}.values())
    # The bars in turn, so that a part of the edits says something about each.
    place: Counter[str] = Counter()
    turn = {}
    for case in todo:
        turn[case.key] = place[case.bar]
        place[case.bar] += 1
    todo.sort(key=lambda case: turn[case.key])
    file.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(todo), BATCH):
        part = todo[start : start + BATCH]
        rows = _batch(aligner, part, run)
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        done.update((row["key"], row) for row in rows)
        say(f"{start + len(part)} of {len(todo)} edits, {rows[0]['seconds']:.1f} s each")
    return done


def _batch(aligner: Aligner, part: Sequence[Case], run: str) -> list[dict[str, Any]]:
    began = time.perf_counter()
    items = [(case.context, case.answer, case.objectives) for case in part]
    results = aligner.align_batch(items, return_exceptions=True)
    seconds = (time.perf_counter() - began) / len(part)
    rows = []
    for case, result in zip(part, results, strict=True):
        # An edit that can't be used is a finding. Anything else is a fault of the measurement.
        if isinstance(result, Exception) and not isinstance(result, EngineError):
            raise result
        failed = isinstance(result, Exception)
        rows.append(
            {
                "run": run,
                "key": case.key,
                "context": case.context,
                "answer": case.answer,
                "objectives": list(case.objectives),
                "edit": None if failed else result.text,
                "error": str(result) if failed else None,
                "passes": None if failed else result.passes,
                "seconds": round(seconds, 2),
            }
        )
    return rows
