"""Settings of the process, from the environment or set in code within a context."""
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Setting:
    """A setting with the value of an environment variable, ``'auto'`` if it is not set.

    Args:
        variable: Name of the variable.
        words: Allowed values.

    Raises:
        ValueError: The variable has another value.
    """

    def __init__(self, variable: str, words: Sequence[str]):
        self.variable = variable
        self.words = words
        self.value = self._checked(os.environ.get(variable, 'auto'))

    @contextmanager
    def set(self, word: str) -> Iterator[None]:
        """Context in which the setting has another value; raises a ValueError for one that is not allowed."""
        before, self.value = self.value, self._checked(word)
        try:
            yield
        finally:
            self.value = before

    def _checked(self, word: str) -> str:
        if word not in self.words:
            raise ValueError(f'{self.variable}={word!r}: use one of {", ".join(self.words)}')
        return word
