"""Trains the embedded adapter: `python -m langchain_metaaligner.training --data D --out O`."""

from __future__ import annotations

import argparse
from pathlib import Path

from langchain_metaaligner.prompting import HH_RLHF
from langchain_metaaligner.training.embedded import examples
from langchain_metaaligner.training.lora import Recipe, train


def main() -> None:
    """Build the examples, fit the adapter, say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m langchain_metaaligner.training", description=main.__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the human pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", type=Path, help="checkpoint of a run to go on from")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=6e-4, help="highest learning rate")
    parser.add_argument("--tokens", type=int, default=448, help="most tokens of an example")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    made = examples.build(*examples.load(given.data), seed=given.seed)
    print(examples.counts(made), flush=True)
    recipe = Recipe(
        learning_rate=given.rate,
        max_tokens=given.tokens,
        epochs=given.epochs,
        seed=given.seed,
        threads=given.threads,
    )
    folder = train(
        [e.render(HH_RLHF) for e in made],
        given.out,
        recipe,
        start=given.start,
        report=lambda line: print(line, flush=True),
    )
    print(f"adapter: {folder}")


if __name__ == "__main__":
    main()
