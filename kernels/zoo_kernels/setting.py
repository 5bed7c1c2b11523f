"""What is chosen for the whole process: by the environment, or in code for a block."""
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Setting:
    """One of some words: that of an environment variable, ``'auto'`` where it is not set.

    Args:
        variable: Name of the variable.
        words: Those that it may have.

    Raises:
        ValueError: The variable has another one.
    """

    def __init__(self, variable: str, words: Sequence[str]):
        self.variable = variable
        self.words = words
        self.value = self._checked(os.environ.get(variable, 'auto'))

    @contextmanager
    def set(self, word: str) -> Iterator[None]:
        """Run a block as if the variable had that word; a ValueError if it cannot."""
        before, self.value = self.value, self._checked(word)
        try:
            yield
        finally:
            self.value = before

    def _checked(self, word: str) -> str:
        if word not in self.words:
            raise ValueError(f'{self.variable}={word!r}: use one of {", ".join(self.words)}')
        return word
