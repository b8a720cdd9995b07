"""Edits files of replies: rows in, rows out, in constant memory, resumable at any moment."""
