"""Scores preference pairs with reward models or chat models."""
