"""Edits an answer: conversation and answer in, an `Alignment` out."""
