"""The pictures and the command line of the trainer's tests."""
from ..train.conftest import few_threads, pictures, small, zoo  # noqa: F401
