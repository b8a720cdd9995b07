"""Edits files of replies: rows in, rows out, in constant memory, resumable at any moment."""

from langchain_metaaligner.bulk.edit_file import edit_file
from langchain_metaaligner.bulk.progress import BulkProgress
from langchain_metaaligner.bulk.summary import BulkSummary

__all__ = ["BulkProgress", "BulkSummary", "edit_file"]
