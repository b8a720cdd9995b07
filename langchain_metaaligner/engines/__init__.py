"""What runs the aligner's model; the only place that knows torch."""
