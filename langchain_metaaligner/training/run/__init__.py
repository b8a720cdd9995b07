"""Runs a training."""
