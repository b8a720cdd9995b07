"""Preference data: rows, pairs, scores and training examples."""
