"""Which engine runs a student: the one named, or the fastest that works here and agrees with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dino_ros.backends import BACKENDS, REFERENCE, Backend, Report, open_backend
from dino_ros.backends.parity import gate
from dino_ros.errors import UserError


@dataclass(frozen=True)
class Choice:
    """The chosen engine, and why the faster ones were not."""

    name: str
    backend: Backend
    passed_over: dict[str, str]
    """Each faster engine that did not work, by name, and the sentence that says why."""

    def __str__(self) -> str:
        return f"{self.name} ({self.backend.description})"


def choose_backend(
    path: Path,
    name: str = "auto",
    largest_batch: int = 1,
    report: Report = lambda sentence: None,
    check: Callable[[Path, Backend], object] = gate,
) -> Choice:
    """Load a student into the named engine, or for "auto" into the first of BACKENDS that works.

    An engine works if it loads the student and passes `check`, which raises UserError if not; the default is the parity
    gate. Raises UserError if the named engine does not work, or for "auto" if none does.
    """
    passed_over: dict[str, str] = {}
    for candidate in BACKENDS if name == "auto" else [name]:
        try:
            backend = open_backend(candidate, path, largest_batch, report)
            if candidate != REFERENCE:
                check(path, backend)
            return Choice(candidate, backend, passed_over)
        except UserError as error:
            if name != "auto" or candidate == REFERENCE:
                raise
            passed_over[candidate] = str(error)
    raise AssertionError("the reference either loads or raises")
