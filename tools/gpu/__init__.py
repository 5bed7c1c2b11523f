"""The parts of ``tools/gpu_check.py``, one process each: what a GPU has to show that a CPU cannot."""
