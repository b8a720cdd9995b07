"""Shows the results of an evaluation: an HTML page, a terminal's table, and Markdown."""

from __future__ import annotations

from langchain_metaaligner.evaluation.report.page import to_html
from langchain_metaaligner.evaluation.report.summary import Summary
from langchain_metaaligner.evaluation.report.tables import markdown, plain, terminal

__all__ = ["Summary", "markdown", "plain", "terminal", "to_html"]
