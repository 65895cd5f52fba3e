"""Which frames of which recordings are exported, in an order that an interrupted export finds again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dino_ros.errors import UserError
from dino_ros.files import named_path
from dino_ros.images.sources import Frame, Source, open_source
from dino_ros.images.stamps import SECOND


@dataclass(frozen=True)
class ChosenFrame:
    """A frame to export."""

    recording: int
    """Number of its recording, from 0."""
    number: int
    """Its number in the recording, from 0."""
    passed: int
    """Frames of all recordings up to it, those that were not chosen included."""
    frame: Frame


class Recordings:
    """Bags, videos and folders of images, of which at most `rate` frames per second are chosen; 0 chooses all.

    The rate is measured in the time of the recording. Raises UserError as `open_source` does, and for a path that is
    given twice.
    """

    def __init__(self, paths: Sequence[Path], topic: str | None, rate: float) -> None:
        if rate < 0:
            raise UserError(f"--rate is {rate:g}: give frames per second, or 0 for all frames.")
        self.paths = [str(named_path(path).resolve()) for path in paths]
        for path in self.paths:
            if self.paths.count(path) > 1:
                raise UserError(f"{path} is given twice: name each recording once.")
        self.sources: list[Source] = [open_source(path, topic) for path in paths]
        self.topic = topic
        self.rate = rate

    @property
    def frames(self) -> int:
        """Number of recorded frames; an estimate for some videos."""
        return sum(len(source) for source in self.sources)

    @property
    def names(self) -> list[str]:
        """A name for each, of letters, digits, _ and -, and different from the others'; to begin file names with."""
        plain = [re.sub(r"[^A-Za-z0-9]+", "_", source.name).strip("_") for source in self.sources]
        alone = len(plain) == 1
        return [name if alone else f"{number:03d}_{name}" for number, name in enumerate(plain)]

    def settings(self) -> dict[str, object]:
        """What decides which frames are chosen."""
        lengths = {path: len(source) for path, source in zip(self.paths, self.sources, strict=True)}
        return {"recordings": lengths, "topic": self.topic, "rate": self.rate}

    def first(self) -> Frame:
        """The first frame. Raises UserError if there is none that can be read."""
        for chosen in self:
            return chosen.frame
        raise UserError(f"{', '.join(self.paths)} holds no frame that can be read: give another recording.")

    def share(self) -> float:
        """The share of frames that are chosen, 0 to 1, guessed from the first two of the first recording."""
        times = [frame.time for frame in islice(self.sources[0], 2)]
        interval = (times[-1] - times[0]) / SECOND
        return min(1.0, self.rate * interval) if self.rate and interval > 0 else 1.0

    def __iter__(self) -> Iterator[ChosenFrame]:
        passed = 0
        for recording, source in enumerate(self.sources):
            due: float | None = None
            for number, frame in enumerate(source):
                passed += 1
                if self.rate:
                    period = SECOND / self.rate
                    # A stamp that jumps back, as where a recording was joined, starts the count anew.
                    if due is not None and due - 2 * period < frame.time < due - period / 100:
                        continue
                    started = due is None or frame.time > due + period or frame.time <= due - 2 * period
                    due = period + (frame.time if started or due is None else due)
                yield ChosenFrame(recording, number, passed, frame)
