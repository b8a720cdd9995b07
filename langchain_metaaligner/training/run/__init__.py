"""The run of a training: its settings, stages and results."""
