"""The recipe of the embedded adapter: its sources, its texts, its examples and its rounds."""
