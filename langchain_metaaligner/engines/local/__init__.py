"""Runs a checkpoint in this process, with torch."""
