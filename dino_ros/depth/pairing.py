"""Finds for each frame of masks the depth image nearest in time.

message_filters does this for messages that come at about the same time. Masks come later than depth, by the student's
latency, which may be many depth images; some masks of a frame may never come; and a mask must be answered once. So
depth is kept until its masks are there, and what is kept is bounded in number.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from dino_ros.images.stamps import SECOND

DEPTHS_KEPT = 60
"""Depth images that wait for their masks: two seconds at 30 Hz, 37 MB at 640x480."""
FRAMES_KEPT = 10
"""Frames of masks that wait for their depth."""
JUMP = 5 * SECOND
"""Nanoseconds by which stamps go back when a recording starts over: then all that was before it is forgotten."""

Depth = TypeVar("Depth")
Mask = TypeVar("Mask")


@dataclass(frozen=True)
class Frame(Generic[Mask, Depth]):
    """The masks of one stamp and their depth image."""

    stamp: int
    """Of the masks, in nanoseconds."""
    masks: dict[str, Mask]
    """By name."""
    depth: Depth | None
    """None if no depth image was near enough in time."""
    depth_is: int | None
    """Nanoseconds by which the nearest depth image is later than the masks; negative if it is earlier; None if there
    has been none at all."""


class Pairing(Generic[Mask, Depth]):
    """Takes masks by name, and depth images, as they come; gives each frame of masks once, by rising stamp.

    A frame is given when its nearest depth image is known, and all masks have come that came with the frame before it.
    What does not come is waited for no longer than until something `slop` nanoseconds later has. A depth image that is
    farther in time than `slop` counts as none. Not thread-safe.
    """

    def __init__(self, slop: int) -> None:
        self._slop = slop
        self._depths: deque[tuple[int, Depth]] = deque(maxlen=DEPTHS_KEPT)
        self._frames: dict[int, dict[str, Mask]] = {}
        self._latest: dict[str, int] = {}
        """By name, the newest stamp of its masks."""
        self._given = -1
        """Stamp of the newest frame that was given."""
        self._newest = -1
        """Newest stamp of anything."""

    def add_depth(self, stamp: int, depth: Depth) -> list[Frame[Mask, Depth]]:
        """Take a depth image; returns the frames that waited for it."""
        self._notice(stamp)
        self._depths.append((stamp, depth))
        return self._give()

    def add_mask(self, name: str, stamp: int, mask: Mask) -> list[Frame[Mask, Depth]]:
        """Take a mask; returns the frames that waited for it. One that comes after its frame was given is dropped."""
        self._notice(stamp)
        self._latest[name] = max(stamp, self._latest.get(name, stamp))
        if stamp > self._given:
            self._frames.setdefault(stamp, {})[name] = mask
        return self._give()

    def _notice(self, stamp: int) -> None:
        """Forget everything if stamps start over."""
        if stamp < self._newest - JUMP:
            self._depths.clear()
            self._frames.clear()
            self._latest.clear()
            self._given = self._newest = -1
        self._newest = max(stamp, self._newest)

    def _give(self) -> list[Frame[Mask, Depth]]:
        given = []
        for stamp in sorted(self._frames):
            crowded = len(self._frames) > FRAMES_KEPT
            if not crowded and not (self._has_its_masks(stamp) and self._has_its_depth(stamp)):
                break
            masks = self._frames.pop(stamp)
            nearest = min(self._depths, key=lambda kept: abs(kept[0] - stamp), default=None)
            apart = nearest[0] - stamp if nearest else None
            near = nearest is not None and abs(nearest[0] - stamp) <= self._slop
            given.append(Frame(stamp, masks, nearest[1] if nearest and near else None, apart))
            self._given = stamp
        return given

    def _has_its_masks(self, stamp: int) -> bool:
        """Whether no mask that came with the frame before is still to come."""
        if max(self._frames) > stamp + self._slop:
            return True
        missing = self._latest.keys() - self._frames[stamp].keys()
        return not any(self._given <= self._latest[name] < stamp for name in missing)

    def _has_its_depth(self, stamp: int) -> bool:
        """Whether no later depth image can be nearer."""
        if max(self._frames) > stamp + self._slop:
            return True
        return bool(self._depths) and self._depths[-1][0] >= stamp
