"""Commands in processes of their own, at the lowest priority, that can be paused."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

NICE = "19"
"""The lowest priority: such a process runs when no other wants the processor."""
START = f'echo $$ > "$0" && exec nice -n {NICE} "$@"'
"""What the shell does with a file and a command: note the number of the process in the file, and become the command."""
SAID = 2000
"""Last bytes of a command's output in which the reason of its failure is looked for."""


class Job:
    """A command that runs in a process group of its own; its output goes to `job.log` in a folder.

    While it runs, it holds a lock on `job.lock` there, with its number in it: if this process is killed, the next one
    finds the job and ends it.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._log = folder / "job.log"
        end_left_over(folder)
        with _lock_file(folder) as lock, self._log.open("wb") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._process = subprocess.Popen(
                ["sh", "-c", START, str(_lock_path(folder)), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock.fileno(),),  # the lock is held as long as a process of the group has the file open
            )
        self.paused = False

    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """The last line of its output."""
        with self._log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - SAID, 0))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def pause(self, paused: bool) -> None:
        """Stop its processes where they are, or let them go on."""
        if paused != self.paused:
            self._signal(signal.SIGSTOP if paused else signal.SIGCONT)
            self.paused = paused

    def end(self) -> None:
        """Kill its processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.ended() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def end_left_over(folder: Path) -> None:
    """Kill the job that a process which was killed left in a folder, if it still runs."""
    with _lock_file(folder) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:  # held, so it is the group of that number, and no other that got it since
                with suppress(ProcessLookupError, ValueError):
                    os.killpg(int(_lock_path(folder).read_text()), signal.SIGKILL)
                time.sleep(0.02)


def _lock_path(folder: Path) -> Path:
    return folder / "job.lock"


def _lock_file(folder: Path) -> IO[str]:
    return _lock_path(folder).open("a")
