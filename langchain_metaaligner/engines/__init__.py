"""The engines that run the aligner's model; only they need torch."""
