"""Scorers of preference pairs: reward models and chat models."""
