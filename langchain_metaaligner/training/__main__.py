"""Runs the commands of the training: `python -m langchain_metaaligner.training --help`."""

from __future__ import annotations

import sys

from langchain_metaaligner.training.commands import main

if __name__ == "__main__":
    sys.exit(main())
