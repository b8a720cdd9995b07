"""The engine that runs a checkpoint in this process, with torch."""
