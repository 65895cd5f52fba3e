"""Frames of a video file by number.

A frame's number is its place among the times at which frames are shown. OpenCV computes a time from the number and the
rate instead, and finds other frames where the rate varies, or where a file does not tell its length.
"""

from __future__ import annotations

import itertools
import logging
from array import array
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import MAX_IMAGE_PIXELS
from dino_ros.images.sources import check_video_name, readable
from dino_ros.images.stamps import SECOND
from dino_ros.images.video_messages import PacketDecoder, upright
from dino_train.data.cache import Cache
from dino_train.data.seeking import Play, Seeker, thumbnails

if TYPE_CHECKING:
    from av.container import InputContainer

log = logging.getLogger(__name__)


class VideoFrames:
    """The frames of a video, from its first keyframe on. Raises UserError if it cannot be opened or has no frames."""

    def __init__(self, path: Path) -> None:
        check_video_name(path)
        self.path = path
        self.name = readable(path.name)
        self.cache = Cache(path, [path])
        index = self.cache.load(["times", "keyframes", "time_base"])
        if not index:
            index = _index(path)
            self.cache.add(index)
        self._times = index["times"]
        self._keyframes = index["keyframes"]
        self._time_base = Fraction(*index["time_base"].tolist())
        if not len(self):
            raise UserError(f"{path} has no frames that decode: convert it, for example to H.264 in .mp4.")
        self._seeker = Seeker(np.searchsorted(self._times, self._keyframes[:, 0]), self._start)

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        frame = self._seeker[index]
        if frame is None:
            raise UserError(f"Frame {index} of {self.path} does not decode: the video is damaged there.")
        return upright(frame)

    @property
    def times(self) -> NDArray[np.int64]:
        """Times of the frames [N] in ns, from 0."""
        nanoseconds: NDArray[np.float64] = (self._times - self._times[0]) * float(self._time_base * SECOND)
        return np.round(nanoseconds).astype(np.int64)

    @property
    def encoding(self) -> str:
        """The codec, as FFmpeg calls it."""
        with _open(self.path) as container:
            return container.streams.video[0].codec_context.name

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield the thumbnail of every frame, None where it does not decode."""
        video = _OpenVideo(self.path, self._times, self._keyframes, threads=0)
        try:
            yield from thumbnails(video.play(0), len(self))
        finally:
            video.close()  # with its threads: a process that is forked lacks them

    def _start(self) -> Play:
        # One thread: the workers are the parallelism.
        return _OpenVideo(self.path, self._times, self._keyframes, threads=1).play


class _OpenVideo:
    """A video file as one process reads it.

    `times` and `keyframes` are those of `_index`; 0 threads are as many as there are CPUs.
    """

    def __init__(self, path: Path, times: NDArray[np.int64], keyframes: NDArray[np.int64], threads: int) -> None:
        self._path = path
        self._times = times
        self._keyframes = keyframes
        self._threads = threads
        self._container = _open(path, threads)

    def close(self) -> None:
        self._container.close()

    def play(self, number: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from a keyframe on, which is given by its number: see Play."""
        packets = self._go_to(self._times[number])
        decoder = PacketDecoder(self._container.streams.video[0].codec_context)
        for packet in packets:
            for time, frame in decoder.decode(packet):
                place = int(np.searchsorted(self._times, time))
                if place < len(self._times) and self._times[place] == time:
                    yield place, frame

    def _go_to(self, time: int) -> Iterator[Any]:
        """Packets from the last keyframe at `time` on, or from an earlier one where the file does not let us go there.

        Seeking is by the times at which packets are decoded, and not exact in every format.
        """
        last = int(np.searchsorted(self._keyframes[:, 0], time, side="right")) - 1
        for back in (0, 1, 4, 16):
            if back > last:
                break
            try:
                self._container.seek(int(self._keyframes[last - back, 1]), stream=self._container.streams.video[0])
                packets = self._from_keyframe()
                first = next(packets)
            except (av.FFmpegError, StopIteration):
                continue
            if first.pts is not None and first.pts <= time:
                return itertools.chain([first], packets)
        self._container.close()
        self._container = _open(self._path, self._threads)
        return self._from_keyframe()

    def _from_keyframe(self) -> Iterator[Any]:
        return itertools.dropwhile(lambda packet: not packet.is_keyframe, _packets(self._container))


def _index(path: Path) -> dict[str, NDArray[np.int64]]:
    """Walk a video without decoding it. Returns the arrays to cache, in units of `time_base` seconds, a fraction.

    `times` [N] are those at which frames are shown, ascending, from the first keyframe on; `keyframes` [M, 2] those at
    which keyframes are shown, ascending, and decoded.
    """
    times, keyframes = array("q"), array("q")
    with _open(path) as container:
        time_base = container.streams.video[0].time_base or Fraction(1)
        for packet in _packets(container):
            if packet.pts is None:  # the end
                continue
            if packet.is_keyframe:
                keyframes.extend((packet.pts, packet.pts if packet.dts is None else packet.dts))
            if not packet.is_discard:
                times.append(packet.pts)
    keys = np.unique(np.array(keyframes, np.int64).reshape(-1, 2), axis=0)
    shown = np.unique(np.array(times, np.int64))
    early = int(np.searchsorted(shown, keys[0, 0])) if len(keys) else len(shown)
    if early:
        log.warning("left out: %d frames of %s before its first keyframe", early, path)
    return {
        "times": shown[early:],
        "keyframes": keys,
        "time_base": np.array([time_base.numerator, time_base.denominator]),
    }


def _open(path: Path, threads: int = 1) -> InputContainer:
    """Open a video for reading. Raises UserError if it is none."""
    try:
        # Some formats tell when a frame is decoded and not when it is shown, which FFmpeg works out.
        container = av.open(str(path), container_options={"fflags": "+genpts"})
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} does not open as a video: convert it, for example to H.264 in .mp4.") from error
    if not container.streams.video:
        raise UserError(f"{path} holds no video: give another file.")
    codec = container.streams.video[0].codec_context
    codec.options = {"max_pixels": str(MAX_IMAGE_PIXELS)}
    codec.thread_count = threads
    codec.thread_type = "AUTO"
    return container


def _packets(container: InputContainer) -> Iterator[Any]:
    """Packets of the video, the last one empty; what cannot be read ends it."""
    packets = container.demux(container.streams.video[0])
    while True:
        try:
            yield next(packets)
        except (av.FFmpegError, StopIteration):
            return
