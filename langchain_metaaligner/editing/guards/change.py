"""A passage of an answer that an edit changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Change:
    """A passage of an answer that an edit changed, between words that it kept.

    Attributes:
        before: The passage as it is in the answer; empty if the edit only adds something.
        after: The passage as it is in the edit, after the guards before this one; empty if the
            edit only leaves something out.
        answer: The whole answer.
        start: Offset of the passage in the answer.
        kept: What the edit has kept behind the passage, as far as it is known.
        moved: Whether the edit has left out or added lines before or in the passage.
        prompt: What the aligner was given: the objectives, the conversation and the answer.
    """

    before: str = field(repr=False)
    after: str = field(repr=False)
    answer: str = field(repr=False)
    start: int
    kept: str = field(default="", repr=False)
    moved: bool = False
    prompt: str = field(default="", repr=False)

    @property
    def end(self) -> int:
        """Offset of the passage's end in the answer."""
        return self.start + len(self.before)

    def with_after(self, after: str) -> Change:
        """The same passage with another text in its place."""
        return replace(self, after=after)
