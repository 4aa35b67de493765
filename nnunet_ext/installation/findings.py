"""One thing that `doctor` looked at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` is the remedy, and empty if the thing is as it should be."""

    topic: str
    value: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
