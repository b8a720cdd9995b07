"""Stand-in."""
from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class JudgeCheck:
    consistency: float = 1.0
    def first_line(self) -> str:
        return "The judge was not checked."
def check_judge(judge: Any, *, objectives: Any, human_pairs: Any = None, rows: Any = (), second_judge: Any = None) -> JudgeCheck:
    return JudgeCheck()
