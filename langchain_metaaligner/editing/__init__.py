"""Editing of answers: a conversation and an answer in, an `Alignment` out."""
