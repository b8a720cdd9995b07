"""Preference data: rows, pairs and training examples."""
