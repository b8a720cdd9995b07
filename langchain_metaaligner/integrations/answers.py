"""A policy's reply on its way through its edit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from langchain_core.messages import AIMessage

from langchain_metaaligner.editing.aligner import Objectives
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.integrations.reply_edit import EditRun
from langchain_metaaligner.integrations.reply_policy import ReplySettings


@dataclass(slots=True)
class Answer:
    """A policy's reply on its way through its edit.

    Attributes:
        reply: The message.
        run: The edit to make; `None` where there is nothing to edit, or something is against it.
        made: The edit or its error, once there is one.
        begun: Whether a consumer has read a part of the edit.
    """

    reply: AIMessage
    run: EditRun | None = None
    made: Alignment | Exception | None = None
    begun: bool = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep an error for the error policy."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the error policy decides
            self.made = error
            self.begun = self.begun or (self.run is not None and self.run.emitted)

    def align(self) -> None:
        """Make the edit whole, where there is one to make; its error is kept."""
        with self.caught():
            if self.run is not None:
                self.made = self.run.align()

    async def aalign(self) -> None:
        """Make the edit whole without blocking the event loop; as `align`."""
        with self.caught():
            if self.run is not None:
                self.made = await self.run.aalign()

    def settled(self, settings: ReplySettings, asked: Objectives | None) -> AIMessage:
        """What becomes of the reply.

        Args:
            settings: Whose error policy decides.
            asked: The objectives that the caller asked for.

        Returns:
            The reply, edited where it was.

        Raises:
            MetaAlignerError: The error, where the policy says so.
        """
        if self.made is None:
            return self.reply
        settled = settings.settle(self.reply, self.made, asked, begun=self.begun)
        return cast("AIMessage", settled)
