"""The one registry class: readers, models and evaluations are each an instance of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from medvision.core.errors import UnknownNameError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Named entries in the order in which they were registered.

    >>> shapes = Registry[type]("shape")
    >>> @shapes.register("square")
    ... class Square: ...
    >>> shapes["square"] is Square
    True
    >>> shapes["circle"]
    Traceback (most recent call last):
    medvision.core.errors.UnknownNameError: no shape is called 'circle'; known: square
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry under `name`. A second entry of one name raises `ValueError`."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"a {self.kind} called {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def check(self, name: str) -> None:
        """Raise `UnknownNameError`, with the names there are, unless there is an entry `name`."""
        if name not in self._entries:
            known = ", ".join(self._entries) or "none"
            raise UnknownNameError(f"no {self.kind} is called {name!r}; known: {known}")

    def __getitem__(self, name: str) -> T:
        self.check(name)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
