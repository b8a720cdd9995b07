"""Executes the notebooks from clean kernels, offline: `make cookbook` writes their outputs.

`make cookbook ARGS=--check` compares them with those in the files and fails if they differ.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

FOLDER = Path(__file__).parent
SECONDS_PER_CELL = 600
VARIES = "varies"
"""Tag of a cell whose output differs each time: only the kinds of its outputs are compared."""

# What differs from run to run by nature, and what replaces it when outputs are compared.
VOLATILE: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b(?:0x)[0-9a-f]{6,}\b"), "<address>"),
    (re.compile(r"(\bseconds\W{1,4})\d+(?:\.\d+)?(?:e-?\d+)?"), r"\1<time>"),
    (re.compile(r"\b\d+(?:\.\d+)?(\s?(?:ms|s|seconds)\b)"), r"<time>\1"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?"), "<date>"),
    (re.compile(r"\b\d+\.\d+\.\d+\b"), "<version>"),
    # The last digits differ between machines.
    (re.compile(r"-?\d+\.\d{4,}"), lambda found: f"{float(found[0]):.2f}"),
)

# Every kernel starts with this: a notebook that asks for the network fails, even if there is one.
# Progress bars are for people who wait, so missing widgets are no reason for a warning.
STARTUP = """
import socket
import warnings

warnings.filterwarnings("ignore", "IProgress not found")

connect = socket.socket.connect


def connect_here(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"The cookbook runs offline, but this cell asked for {address[0]}.")
    return connect(self, address)


socket.socket.connect = connect_here
"""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The number of threads changes the last bit of a sum, and two kernels run at once.
    "OMP_NUM_THREADS": "1",
}
FOREIGN = ("METAALIGNER_MODEL", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "PYTHONWARNINGS")


class NotebookError(Exception):
    """A notebook can't be executed, or its output is something that must not be stored."""


def execute(path: Path) -> nbformat.NotebookNode:
    """Run all cells in a new kernel, from the notebook's folder.

    Args:
        path: The notebook.

    Returns:
        The notebook with the outputs of this run, and without metadata of this machine.

    Raises:
        NotebookError: A cell raised an error, took too long or wrote to the error stream (as
            warnings do), or the kernel died.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder) / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "offline.py").write_text(STARTUP)
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        client = NotebookClient(
            notebook,
            timeout=SECONDS_PER_CELL,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
            # Files instead of ports: nobody else on the machine can reach the kernel.
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}),
        )
        try:
            client.execute(env={**kept, **ENVIRONMENT, "IPYTHONDIR": folder})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise NotebookError(re.sub(r"\x1b\[[\d;]*m", "", str(error))) from error
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in _code(notebook):
        cell.outputs = list(_joined(cell.outputs))
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                message = f"a cell wrote to the error stream\n{cell.source}\n{output.text}"
                raise NotebookError(message)
    return notebook


def drift(before: nbformat.NotebookNode, after: nbformat.NotebookNode) -> str:
    """Compare the outputs of two runs, except for what differs by nature.

    Args:
        before: The notebook as stored.
        after: The same notebook, just executed.

    Returns:
        The differences, cell by cell; empty if there are none.
    """
    return "\n".join(
        line
        for number, (old, new) in enumerate(zip(_code(before), _code(after), strict=True), start=1)
        for line in difflib.unified_diff(
            _shown(old), _shown(new), f"code cell {number}, kept", "now", lineterm="", n=1
        )
    )


def stable(text: str) -> str:
    """Replace times, ids, addresses, dates and versions with placeholders.

    Args:
        text: A cell's output.

    Returns:
        The text that should be the same each time.
    """
    for pattern, sign in VOLATILE:
        text = pattern.sub(sign, text)
    return text


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _joined(outputs: Iterable[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """Joins the pieces of a stream, which are cut at different places in each run."""
    last: nbformat.NotebookNode | None = None
    for output in outputs:
        is_stream = output.output_type == "stream"
        if is_stream and last is not None and last.name == output.name:
            last.text += output.text
            continue
        last = output if is_stream else None
        yield output


def _shown(cell: nbformat.NotebookNode) -> list[str]:
    """The lines of a cell's outputs, each under its kind: this is what is compared."""
    lines: list[str] = []
    for output in cell.outputs:
        said: Mapping[str, Any] = output.get("data") or {output.get("name", "error"): output.text}
        for kind, text in sorted(said.items()):
            lines.append(f"[{kind}]")
            if VARIES not in cell.metadata.get("tags", ()):
                # Next to its picture, an object's repr says the same again, with addresses.
                lines += [] if kind == "text/plain" and len(said) > 1 else _lines(text)
    return lines


def _lines(text: Any) -> list[str]:
    return stable(text if isinstance(text, str) else repr(text)).splitlines()


def _run(path: Path, *, check: bool) -> tuple[str, bool]:
    began = time.perf_counter()
    try:
        kept, made = nbformat.read(path, as_version=4), execute(path)
        found = drift(kept, made) if check else ""
        if not check:
            nbformat.write(made, path)
    except NotebookError as error:
        found = str(error)
    took = f"{path.name:<28} {time.perf_counter() - began:5.0f} s"
    return (f"{took}  failed:\n{found}", False) if found else (took, True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute notebooks.

    Args:
        arguments: Arguments of the command line; `None` takes those of this process.

    Returns:
        The exit code: 0 if all went well.
    """
    parser = argparse.ArgumentParser(prog="make cookbook", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of them if none is named")
    parser.add_argument("--check", action="store_true", help="compare outputs and write nothing")
    parser.add_argument("--jobs", type=int, default=2, help="number of kernels at once (2)")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(FOLDER.glob("*.ipynb"))
    well = True
    with ThreadPoolExecutor(options.jobs) as pool:
        for report, good in pool.map(partial(_run, check=options.check), paths):
            print(report, flush=True)
            well = well and good
    if not well and options.check:
        print("If the new outputs are right, run make cookbook, look at them, and commit them.")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
