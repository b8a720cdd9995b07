"""What a calibration found: the values it proposes, what they cost, and the other choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from langchain_metaaligner.evaluation.report.charts import trade_offs
from langchain_metaaligner.evaluation.statistics import Interval

_FEW = 30
# A picture that stands alone says itself what the page of a report says.
_COLOURS = (
    "<style>svg{--ink:#1c2024;--quiet:#565f6b;--rule:#d5dae0;--win:#0068a3;--loss:#c65102}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e7eaed;--quiet:#a3adb8;--rule:#3a4149;"
    "--win:#56b4e9;--loss:#f0a030}}</style>"
)


@dataclass(frozen=True, slots=True)
class TradeOff:
    """What one choice of `keep_above` and `caution` does to marked replies.

    Attributes:
        keep_above: As in `Aligner`; `None` keeps no reply without decoding.
        caution: As in `Aligner`; `None` where the engine can't keep it.
        bad: Replies that should be changed.
        missed: Those of them that stay as they are.
        good: Replies that should stay.
        spoilt: Those of them that are changed.
        missed_interval: Of the share of missed ones: 95 %, clustered by conversation.
        spoilt_interval: Of the share of spoilt ones, likewise.
    """

    keep_above: float | None
    caution: float | None
    bad: int
    missed: int
    good: int
    spoilt: int
    missed_interval: Interval
    spoilt_interval: Interval

    @property
    def missed_rate(self) -> float:
        """Share of the bad replies that stay."""
        return self.missed / self.bad if self.bad else 0.0

    @property
    def spoilt_rate(self) -> float:
        """Share of the good replies that are changed."""
        return self.spoilt / self.good if self.good else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """The proposed `keep_above` and `caution`, and how they were found.

    They were chosen on one half of the conversations. All figures are of the other half.

    Attributes:
        chosen: What the proposed values do.
        today: What the aligner does as it was given, with its own values.
        curve: What other values do: for each caution, from keeping everything to keeping nothing.
        most_spoilt: The share of good replies that might be changed, on the half for the choice.
        chosen_on: Number of bad and of good replies in that half.
        failed: Replies whose edit failed, or has no agreement; they are left out.
        model: The aligner's model.
        objectives: Names of the objectives of the edits.
    """

    chosen: TradeOff
    today: TradeOff
    curve: tuple[TradeOff, ...] = field(repr=False)
    most_spoilt: float
    chosen_on: tuple[int, int]
    failed: int
    model: str
    objectives: tuple[str, ...]

    @property
    def keep_above(self) -> float | None:
        """The proposed `keep_above`; `None` if keeping none without decoding is best."""
        return self.chosen.keep_above

    @property
    def caution(self) -> float | None:
        """The proposed `caution`; `None` if the engine can't keep one."""
        return self.chosen.caution

    @property
    def code(self) -> str:
        """The line of code that sets the proposed values."""
        values = {"keep_above": self.keep_above, "caution": self.caution}
        given = [f"{name}={value:g}" for name, value in values.items() if value is not None]
        return f"Aligner({', '.join(['...', *given])})"

    def records(self) -> list[dict[str, Any]]:
        """The curve as plain dictionaries, for a data frame or a file."""
        return [
            {**asdict(one), "missed_rate": one.missed_rate, "spoilt_rate": one.spoilt_rate}
            for one in self.curve
        ]

    def to_svg(self, path: str | Path | None = None) -> str:
        """Draw the curve: missed harm against spoilt replies, with the proposed point.

        Args:
            path: A file to write the picture to.

        Returns:
            The picture, which is light or dark like its surroundings.

        Raises:
            EvaluationError: Altair is missing.
        """
        points = [
            {
                "number": number,
                "caution": "none" if one.caution is None else f"{one.caution:g}",
                "missed": one.missed_rate,
                "spoilt": one.spoilt_rate,
            }
            for number, one in enumerate(self.curve)
        ]
        drawn = trade_offs(points, _with_ends(self.chosen)) or "<svg></svg>"
        tag, _, rest = drawn.partition(">")
        namespace = ' xmlns="http://www.w3.org/2000/svg"'
        made = f"{tag}{'' if 'xmlns=' in tag else namespace}>{_COLOURS}{rest}"
        if path is not None:
            Path(path).write_text(made, encoding="utf-8")
        return made

    def __str__(self) -> str:
        counts = f"{self.chosen.bad} bad and {self.chosen.good} good replies"
        lines = [
            self.code,
            f"On the half that was held out ({counts}):",
            _told("proposed", self.chosen),
            _told("as given", self.today),
        ]
        if self.failed:
            lines.append(f"{self.failed} replies are left out, because their edit failed.")
        if self.chosen.spoilt_rate > self.most_spoilt:
            lines.append(
                f"More good replies are changed here than the {self.most_spoilt:.1%} that were"
                " allowed on the other half: take a smaller most_spoilt, or mark more replies."
            )
        if min(self.chosen.bad, self.chosen.good, *self.chosen_on) < _FEW:
            lines.append(f"Few replies: with fewer than {_FEW} a side, take this as a first guess.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        text = escape(str(self)).replace("\n", "<br>")
        return f'<div>{self.to_svg()}<div style="font-family:monospace">{text}</div></div>'


def _with_ends(one: TradeOff) -> Mapping[str, float]:
    return {
        "missed": one.missed_rate,
        "spoilt": one.spoilt_rate,
        "missed_low": one.missed_interval[0],
        "missed_high": one.missed_interval[1],
        "spoilt_low": one.spoilt_interval[0],
        "spoilt_high": one.spoilt_interval[1],
    }


def _told(name: str, one: TradeOff) -> str:
    (low, high), (least, most) = one.missed_interval, one.spoilt_interval
    return (
        f"  {name}: {one.missed_rate:.1%} of the bad replies stay ({low:.1%} to {high:.1%}),"
        f" {one.spoilt_rate:.1%} of the good ones are changed ({least:.1%} to {most:.1%})"
    )
