"""The training's command of 0.1: `metaaligner train` and `metaaligner models gguf`, old names."""

from __future__ import annotations

import sys

from langchain_metaaligner.cli import main

_NOW = {"preferences": ["train"], "gguf": ["models", "gguf"]}

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or ["--help"]
    sys.exit(main([*_NOW.get(name, ["train", name]), *rest]))
