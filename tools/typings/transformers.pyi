# All of it is Any: the real one costs the type checker half a minute.
from typing import Any

def __getattr__(name: str) -> Any: ...
