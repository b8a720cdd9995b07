"""Silences messages of other libraries that nobody who trains can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOUD = ("trl", "transformers", "accelerate", "peft", "torch")


@contextmanager
def quiet() -> Iterator[None]:
    """Show only errors of the training libraries, and no progress bars but the training's own."""
    import datasets
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    bars = not datasets.are_progress_bars_disabled()
    loading_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    switch: Any = transformers_logging
    switch.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
        if loading_bars:
            switch.enable_progress_bar()
