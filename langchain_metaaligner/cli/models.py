"""`metaaligner models`: the published checkpoints, and which of them this machine can run."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from langchain_metaaligner import checkpoints
from langchain_metaaligner.checkpoints import PublishedCheckpoint
from langchain_metaaligner.cli.help import SETTINGS, Command, Group
from langchain_metaaligner.cli.machine import GIB, Download, downloads, gpus
from langchain_metaaligner.cli.running import Debug, Json
from langchain_metaaligner.cli.terminal import console, print_indented, print_json
from langchain_metaaligner.engines.free_memory import free_memory

# Bytes that a weight takes; q8_0 is llama.cpp's form.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "q8_0": 1.0625}
_MARGIN = 1.1  # what loading and running take besides
_EMBEDDED_GIB = 0.25

APP = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True)
class _Model:
    """A checkpoint and what this machine can do with it; memory is in GiB."""

    name: str
    family: str
    window: int | None
    licence: str
    memory: dict[str, float]
    fits_memory: list[str]
    fits_gpu: list[str]
    downloaded: float | None


@APP.callback(
    invoke_without_command=True,
    cls=Group,
    context_settings=SETTINGS,
    epilog="metaaligner models\nmetaaligner models --json",
)
def models(context: typer.Context, json: Json = False, _debug: Debug = False) -> None:
    """List the published checkpoints and what fits this machine; write GGUF files.

    A form of the weights is listed as fitting if it is likely to load now: float32, bfloat16 (or
    float16), and q8_0 in llama.cpp. Aligners of other people that were downloaded from the hub are
    listed, too.
    """
    if context.invoked_subcommand is not None:
        return
    free = free_memory()
    driver = gpus()
    found = list(_models(free, sum(gpu.free for gpu in driver)))
    if json:
        for one in found:
            print_json(asdict(one))
        return
    there = ", ".join(f"{one.name} with {_gib(one.free / GIB)} free" for one in driver)
    out = console()
    out.print(f"This machine has {_gib(free / GIB)} of memory free, and {there or 'no GPU'}.")
    for one in found:
        out.print(f"\n{one.name}", style="bold")
        for line in _lines(one):
            print_indented(out, line)


@APP.command(cls=Command, epilog="metaaligner models gguf embedded --dtype q8_0 --out a.gguf")
def gguf(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub id or folder of the aligner, or 'embedded'.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    adapter: Annotated[
        str | None, typer.Option(metavar="ADAPTER", help="Hub id or folder of its adapter.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its prompt family, if its name doesn't tell."),
    ] = None,
    dtype: Annotated[
        Literal["f32", "bf16", "f16", "q8_0"],
        typer.Option(metavar="f32|bf16|f16|q8_0", help="How the matrices are stored."),
    ] = "bf16",
    json: Json = False,
    _debug: Debug = False,
) -> None:
    """Write an aligner as a GGUF file, for llama.cpp.

    It is one file, with the adapter merged and the tokenizer inside, for llama.cpp and the servers
    that are built on it.
    """
    from langchain_metaaligner.training.run.gguf_export import export_gguf

    written = export_gguf(model, out, dtype=dtype, adapter=adapter, family=family)
    if json:
        print_json({"result": str(written), "bytes": written.stat().st_size})
    else:
        typer.echo(written)


def needed_gib(known: PublishedCheckpoint, form: str) -> float:
    """Estimate the memory that a checkpoint takes, with one edit as long as its window.

    Args:
        known: The checkpoint.
        form: The form of its weights, one of `BYTES`.

    Returns:
        GiB.
    """
    cache = known.kib_per_token * known.window / (1 << 20) * (2 if form == "float32" else 1)
    return known.gib * BYTES[form] / 2 * _MARGIN + cache


def _models(free: int, on_gpus: int) -> Iterator[_Model]:
    here = {one.name.lower(): one for one in downloads()}
    base = checkpoints.embedded_base() is not None
    yield _Model(
        checkpoints.EMBEDDED,
        "HH-RLHF",
        None,
        "Apache-2.0 base; see its card",
        {form: round(_EMBEDDED_GIB * size / 2 * _MARGIN, 1) for form, size in BYTES.items()},
        list(BYTES),
        [],
        _EMBEDDED_GIB if base or checkpoints.EMBEDDED_BASE.lower() in here else None,
    )
    for known in checkpoints.PUBLISHED:
        memory = {form: round(needed_gib(known, form), 1) for form in BYTES}
        found = here.pop(known.name.lower(), None)
        yield _Model(
            known.name,
            known.family,
            known.window,
            known.licence,
            memory,
            [form for form, gib in memory.items() if gib * GIB <= free],
            [form for form, gib in memory.items() if gib * GIB <= on_gpus],
            round(found.bytes / GIB, 1) if found and found.has_weights else None,
        )
    for one in here.values():
        family = checkpoints.family_of(one.name, _config(one))
        if family is not None and one.has_weights:
            yield _Model(one.name, family, None, "", {}, [], [], round(one.bytes / GIB, 1))


def _config(one: Download) -> dict[str, Any]:
    try:
        read = json_module.loads((one.folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _lines(one: _Model) -> Iterator[str]:
    window = f"{one.window} tokens" if one.window else ""
    yield ", ".join(part for part in (f"prompts of {one.family}", window, one.licence) if part)
    if one.memory:
        yield "needs " + ", ".join(f"{_gib(gib)} in {form}" for form, gib in one.memory.items())
        places = {"on the GPU": one.fits_gpu, "in memory": one.fits_memory}
        # The fullest form is the first one of each.
        fits = [f"{found[0]} {place}" for place, found in places.items() if found]
        yield f"fits as {', '.join(fits)}" if fits else "doesn't fit"
    if one.downloaded is not None:
        yield f"is on this machine ({_gib(one.downloaded)})"


def _gib(size: float) -> str:
    return f"{size:.1f} GiB"
