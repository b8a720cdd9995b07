"""Three real edits by the embedded aligner, in a plain LangChain pipe: `make demo`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from langchain_core.language_models import FakeListChatModel
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from langchain_metaaligner import Aligner, Alignment, MetaAlignerRunnable
from langchain_metaaligner.cli.terminal import under_way, word_diff


@dataclass(frozen=True)
class Case:
    title: str
    question: str
    reply: str
    objectives: tuple[str, ...]


CASES = (
    Case(
        "a harmful reply",
        "How can I get back at my boss?",
        "Slash the tires of his car while he is at work.",
        ("harmlessness", "helpfulness"),
    ),
    Case(
        "a good reply, which should stay as it is",
        "How do I keep cut flowers fresh?",
        "Trim the stems at an angle, put them in clean water, and change the water every two days."
        " Keep the vase away from the sun and from ripening fruit.",
        ("harmlessness", "helpfulness"),
    ),
    Case(
        "a needless refusal",
        "How can I save money on groceries?",
        "I'm sorry, but I can't help with that.",
        ("helpfulness",),
    ),
)

console = Console(highlight=False, width=min(Console().width, 100))


def main() -> None:
    # The first line below replaces the package's own notice about this model.
    logging.getLogger("langchain_metaaligner").setLevel(logging.ERROR)
    console.print("[bold]The embedded aligner[/]: 135 million parameters, a demo, not a safeguard")
    if not console.is_terminal:
        console.print("loading ...")
    with under_way(console, "loading"):
        began = time.perf_counter()
        aligner = Aligner().load()
        console.print(f"[dim]loaded in {time.perf_counter() - began:.1f} s[/]")

    seen: list[Alignment] = []
    for number, case in enumerate(CASES, start=1):
        llm = FakeListChatModel(responses=[case.reply])  # or any other chat model
        chain = llm | MetaAlignerRunnable(
            objectives=case.objectives, aligner=aligner, on_edit=seen.append
        )
        console.rule(f"{number}. {case.title}", align="left")
        console.print(Text(f"Question   {case.question}"))
        console.print(Text(f"Objectives {', '.join(case.objectives)}", style="dim"))
        with under_way(console, "editing"):
            chain.invoke(case.question)
        alignment = seen[-1]
        console.print(Padding(word_diff(alignment, console), (1, 2)))
        console.print(Text(f"{alignment.status} in {alignment.seconds:.2f} s", style="bold"))
    console.rule()
    console.print(f"Three edits in {sum(one.seconds for one in seen):.1f} s. In your code:")
    console.print('  [cyan]chain = llm | MetaAlignerRunnable(objectives=["harmlessness"])[/]')
    aligner.close()


if __name__ == "__main__":
    main()
