"""Topics of video in bags, H.264 or H.265: frames at random, decoded from the keyframe before.

To decode a topic once and keep its frames would take as much room as a recording of raw images, which is what robots
record video to avoid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.video_messages import VideoDecoder, codec_of, upright
from dino_train.data.bags import BagFrames
from dino_train.data.index import BagIndex
from dino_train.data.seeking import Play, Seeker, thumbnails

if TYPE_CHECKING:
    from av import VideoFrame

log = logging.getLogger(__name__)


class VideoTopicFrames(BagFrames):
    """The frames of a topic of video, from its first keyframe on; those before it are left out, with a warning."""

    def __init__(self, index: BagIndex, topic: str) -> None:
        super().__init__(index, topic)
        self._problem: str | None = None
        keyframes = np.zeros(0, np.int64)
        try:
            if len(self):
                keyframes = self._find_keyframes()
                self._problem = None if len(keyframes) else "none of its frames is a keyframe"
        except UserError as error:
            self._problem = str(error).rstrip(".")
        early = int(keyframes[0]) if len(keyframes) else 0
        if early:
            log.warning("left out: %d frames of %s before its first keyframe", early, self.name)
        self._messages = self._messages[early:]
        self._seeker = Seeker(keyframes - early, self._start)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        frame = self._seeker[index]
        if frame is None:
            time = self._messages["time"][index]
            raise UserError(
                f"{self.path}, topic {self.topic}, message at {time} ns: it does not decode, or frames before it are "
                "missing."
            )
        return upright(frame)

    @property
    def encoding(self) -> str:
        """The codec, as FFmpeg calls it."""
        message = self._first_message()
        return "" if message is None else codec_of(message)

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        return thumbnails(self._start()(0), len(self))

    def why_not_images(self) -> str | None:
        return self._problem or super().why_not_images()

    def _find_keyframes(self) -> NDArray[np.int64]:
        """Numbers of the messages that hold a keyframe, from the cache if it has them."""
        name = f"keyframes {self.topic}"
        arrays = self.cache.load([name])
        if not arrays:
            decoder = VideoDecoder(self.encoding)
            messages = map(self._message_or_none, range(len(self)))
            found = [number for number, message in enumerate(messages) if message and decoder.is_keyframe(message.data)]
            arrays = {name: np.array(found, np.int64)}
            self.cache.add(arrays)
        return arrays[name]

    def _start(self) -> Play:
        decoder = VideoDecoder(self.encoding)

        def play(number: int) -> Iterator[tuple[int, VideoFrame]]:
            decoder.restart()
            for following in range(number, len(self)):
                message = self._message_or_none(following)
                yield from decoder.decode(following, message.data) if message else ()
            yield from decoder.finish()

        return play
