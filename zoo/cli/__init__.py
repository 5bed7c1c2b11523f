"""The commands of ``python -m zoo``, one per module: ``main`` takes the words after its name, returns the exit code."""
