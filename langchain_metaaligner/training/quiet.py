"""Keeps from the terminal what other libraries say and nobody who trains can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOUD = ("trl", "transformers", "accelerate", "peft", "torch")


@contextmanager
def quiet() -> Iterator[None]:
    """Show errors of the training libraries only, and no bars but the training's own."""
    import datasets
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    bars = datasets.are_progress_bars_disabled()
    transformers_logging.set_verbosity(logging.ERROR)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
