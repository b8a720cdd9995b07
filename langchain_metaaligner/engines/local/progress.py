"""Shows on a terminal, in one line, which checkpoint is being loaded and how far it has come."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

_EVERY = 0.1  # seconds between two updates of a count


class LoadProgress:
    """A line on a terminal that is updated; in pipes and logs there is nothing.

    Nothing is shown either where progress bars are switched off (`HF_HUB_DISABLE_PROGRESS_BARS`),
    or where this package may not even log warnings.

    Args:
        name: What is being loaded.
        shown: Whether to show it.
    """

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name = name
        self._shown = shown
        self._what = ""
        self._length = 0
        self._counted = 0.0

    def size(self, parameters: float, needed: float) -> None:
        """Tell how large the model is.

        Args:
            parameters: The number of its parameters.
            needed: The bytes that they will take.
        """
        self._what = f" ({parameters / 1e9:.2f} billion parameters, {needed / (1 << 30):.1f} GiB)"
        self.step("reading the weights")

    def step(self, doing: str) -> None:
        """Tell what is being done.

        Args:
            doing: A few words.
        """
        self._write(f"Loading {self._name}{self._what}: {doing}")

    def count(self, done: int, of: int) -> None:
        """Tell how many of the weights are read.

        Args:
            done: The number of tensors that are read.
            of: The number of all tensors.
        """
        now = time.monotonic()
        if now - self._counted >= _EVERY:
            self._counted = now
            self.step(f"reading the weights, {100 * done // max(of, 1)} %")

    def end(self, text: str = "") -> None:
        """Replace the line.

        Args:
            text: The last line; by default nothing remains.
        """
        if self._length or text:
            self._write(text, "\n" if text else "\r")

    def loaded(self, seconds: float) -> None:
        """Tell that the model is ready.

        Args:
            seconds: How long it took.
        """
        self.end(f"Loaded {self._name}{self._what} in {seconds:.1f} s.")

    @contextmanager
    def with_bars(self) -> Iterator[None]:
        """Let the bars of transformers follow the same rules, for this thread."""
        from transformers.utils import logging as bars

        thread = threading.get_ident()

        def hook(factory: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
            if threading.get_ident() == thread:
                if self._shown:
                    self.end()
                    given = given | {"desc": f"Loading {self._name}{self._what}", "leave": False}
                elif not _in_notebook(factory):
                    given = given | {"disable": True}
            return factory(*args, **given) if before is None else before(factory, args, given)

        before = bars.set_tqdm_hook(hook)
        try:
            yield
        finally:
            bars.set_tqdm_hook(before)

    def _write(self, text: str, end: str = "") -> None:
        if not self._shown:
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        line = f"\r{text.ljust(self._length)}{end}"
        self._length = 0 if end else len(text)
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError):  # the terminal has gone
            self._shown = False


SILENT = LoadProgress("", shown=False)
"""Shows nothing."""


def _in_notebook(bar: object) -> bool:
    """Whether a class of bars draws them in a notebook, which is no terminal."""
    kinds = getattr(bar, "__mro__", (bar,))
    return any("notebook" in getattr(kind, "__module__", "") for kind in kinds)


def bars_of_hub() -> type[Any]:
    """The bars for downloads: huggingface_hub's, which are not shown in pipes and logs.

    Returns:
        A class like tqdm's.
    """
    from huggingface_hub import utils

    theirs: Any = utils.tqdm  # type: ignore[attr-defined]

    class Bars(theirs):  # type: ignore[misc]
        def __init__(self, *args: Any, **given: Any) -> None:
            if not _in_notebook(theirs) and not _on_terminal():
                given["disable"] = True
            super().__init__(*args, **given)

    return Bars


def _on_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def progress_of(name: str) -> LoadProgress:
    """Show the loading of a checkpoint, if there is a terminal.

    Args:
        name: The checkpoint.

    Returns:
        Its line.
    """
    from huggingface_hub import utils

    without: bool = utils.are_progress_bars_disabled()  # type: ignore[attr-defined]
    wanted = logger.isEnabledFor(logging.WARNING) and not without
    return LoadProgress(name, shown=wanted and _on_terminal())
