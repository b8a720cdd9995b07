"""What an edit that keeps most of the reply must keep, too: numbers, links, code, tables."""

from langchain_metaaligner.editing.guards.change import Change
from langchain_metaaligner.editing.guards.judging import GUARDS, Guard, Guards

__all__ = ["GUARDS", "Change", "Guard", "Guards"]
