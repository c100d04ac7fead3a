"""A running mean."""

from __future__ import annotations


class Average:
    """A mean that forgets, without the pull to zero of its first values (Kingma and Ba 2015, section 3)."""

    def __init__(self) -> None:
        self.value: float | None = None
        self.count = 0
        """How many values it has taken in."""
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float, kept: float) -> float:
        """Take in a value; `kept` is what it leaves of the weight of those before. Returns the mean."""
        self._sum = kept * self._sum + (1 - kept) * value
        self._weight = kept * self._weight + (1 - kept)
        self.count += 1
        self.value = self._sum / self._weight
        return self.value
