"""Trains the embedded aligner: a small adapter that edits another model's reply."""
