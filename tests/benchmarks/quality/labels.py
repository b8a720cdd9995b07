"""Measures the measure: how far the patterns of refusals agree with what people said of replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.quality import chat_replies
from tests.benchmarks.quality.chat_replies import ChatReply
from tests.benchmarks.quality.patterns import declines
from tests.benchmarks.quality.scoring import Figure, share

HEAD = "| people say | n | the patterns say: declines | 95 % interval |\n| --- | --- | --- | --- |"


def table(folder: Path) -> str:
    """Hold the patterns against people's verdicts.

    Args:
        folder: Holds the sets of chat models' replies.

    Returns:
        A table: of the replies that people call refusals or answers, how many the patterns call
        refusals. The patterns were written after looking at half of the prompts; that half stands
        apart.
    """
    replies = chat_replies.read(folder)
    return "\n".join([HEAD, *(_row(figure) for figure in figures(replies))])


def figures(replies: Sequence[ChatReply]) -> list[Figure]:
    """The rows of the table: those of the prompts never looked at first."""
    kinds: dict[str, Callable[[ChatReply], bool]] = {
        "safe question": lambda reply: reply.safe,
        "unsafe question": lambda reply: not reply.safe,
    }
    found = []
    for looked, half in ((False, ""), (True, " (half that was looked at)")):
        part = [reply for reply in replies if chat_replies.seen(reply.prompt) is looked]
        for verdict in ("declines", "partly", "complies"):
            for kind, wanted in kinds.items():
                some = [reply for reply in part if reply.verdict == verdict and wanted(reply)]
                hits = [declines(reply.text) for reply in some]
                groups = [reply.prompt for reply in some]
                found.append(share(f"{verdict}, {kind}{half}", hits, None, groups))
        clear = [reply for reply in part if reply.verdict in ("declines", "complies")]
        right = [declines(reply.text) == (reply.verdict == "declines") for reply in clear]
        groups = [reply.prompt for reply in clear]
        found.append(share(f"all that decline or comply: agree{half}", right, None, groups))
    return found


def _row(figure: Figure) -> str:
    low, high = figure.interval or (0.0, 1.0)
    return f"| {figure.name} | {figure.count} | {figure.share:.1%} | {low:.0%} to {high:.0%} |"
