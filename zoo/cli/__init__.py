"""The commands of ``python -m zoo``, one a module: ``main`` takes the words behind its name, returns the exit code."""
