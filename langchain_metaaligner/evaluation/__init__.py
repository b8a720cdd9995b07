"""Measures how much better edits are than their originals, on rows and with a judge of choice."""
