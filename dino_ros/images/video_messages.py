"""Topics of video: messages that hold one compressed frame each, which is decoded with the help of those before it.

PyAV (the package av) decodes them. Nothing else of dino_ros needs it, so it is imported when such a topic is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import MAX_IMAGE_PIXELS
from dino_ros.images.stamps import SECOND, stamp_ns

if TYPE_CHECKING:
    from av import VideoFrame

log = logging.getLogger(__name__)

DEFINITIONS = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "std_msgs/Header header\nint32 width\nint32 height\n"
    "string encoding\nuint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data\n",
    "foxglove_msgs/msg/CompressedVideo": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\n"
    "string format\n",
}
"""Of the types of such messages, which recordings do not always carry: fields as their packages document them."""
VIDEO_TYPES = tuple(DEFINITIONS)


def load_av(need: str) -> ModuleType:
    """PyAV. Raises UserError, saying what needs it, where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{need} needs the package av: run `pip install av`.") from error
    return av


def stamp_and_frame(message: Any) -> tuple[int, str]:
    """The stamp of a message of VIDEO_TYPES, in nanoseconds, and its frame."""
    if hasattr(message, "header"):
        return stamp_ns(message), message.header.frame_id
    return message.timestamp.sec * SECOND + message.timestamp.nanosec, message.frame_id


def codec_of(message: Any) -> str:
    """The codec of a message of VIDEO_TYPES, as FFmpeg calls it: h264, hevc, ...

    FFMPEGPacket names the codec, or the encoder: libx264, hevc_nvenc; details may follow after a semicolon.
    """
    name: str = message.format if hasattr(message, "format") else message.encoding
    name = name.partition(";")[0].strip().lower()
    return "h264" if "264" in name else "hevc" if "265" in name or "hevc" in name else name


def upright(frame: VideoFrame, form: str = "rgb24") -> NDArray[np.uint8]:
    """A decoded frame, RGB [H, W, 3] or of another `form` of FFmpeg's, uint8, turned as its display matrix says."""
    pixels = frame.to_ndarray(format=form, threads=1)  # a process that is forked would lack the others
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))).astype(np.uint8, copy=False)


class PacketDecoder:
    """Decodes packets of a video.

    A damaged frame is left out, and so are those after it up to the next keyframe, which are decoded with its help.
    """

    def __init__(self, codec: Any) -> None:
        """`codec` is a codec context of PyAV's."""
        self._codec = codec
        self._error = load_av("Decoding video").FFmpegError
        self._damaged = False

    def decode(self, packet: Any) -> list[tuple[int, VideoFrame]]:
        """Take a packet, None after the last one; return the frames that are complete now, with their `pts`."""
        try:
            frames = self._codec.decode(packet)
        except self._error:
            self._damaged = True
            return []
        return [(frame.pts, frame) for frame in frames if self._is_whole(frame) and frame.pts is not None]

    def restart(self) -> None:
        """Forget all frames: the next packet must be a keyframe."""
        self._codec.flush_buffers()
        self._damaged = False

    def _is_whole(self, frame: VideoFrame) -> bool:
        self._damaged = frame.is_corrupt or (self._damaged and not frame.key_frame)
        return not self._damaged


class VideoDecoder:
    """Decodes the messages of a topic. Raises UserError if PyAV is not installed or does not know the codec."""

    def __init__(self, codec: str) -> None:
        self._av = load_av(f"Decoding a topic of {codec or 'video'}")
        self._codec_name = codec
        self._packets = self._open()

    def is_keyframe(self, data: bytes) -> bool:
        """Whether a frame decodes without those before it; that is tried, since not every publisher says so."""
        alone = self._open()
        return any(frame.key_frame for _, frame in [*alone.decode(self._packet(0, data)), *alone.decode(None)])

    def decode(self, number: int, data: bytes) -> list[tuple[int, VideoFrame]]:
        """Take the data of a frame; return the frames that are complete now, with their numbers.

        Those that PacketDecoder leaves out are missing.
        """
        return self._packets.decode(self._packet(number, data))

    def finish(self) -> list[tuple[int, VideoFrame]]:
        """Return the frames that waited for later ones, and make ready for another keyframe."""
        frames = self._packets.decode(None)
        self.restart()
        return frames

    def restart(self) -> None:
        """Forget all frames: the next one must be a keyframe."""
        self._packets.restart()

    def _packet(self, number: int, data: bytes) -> Any:
        packet = self._av.Packet(bytes(data) or b"\0")  # an empty one would tell the decoder that the video ends
        packet.pts = packet.dts = number
        return packet

    def _open(self) -> PacketDecoder:
        try:
            codec = self._av.CodecContext.create(self._codec_name, "r")
        except (self._av.FFmpegError, ValueError) as error:
            raise UserError(
                f"Video of the codec {self._codec_name!r} cannot be decoded: record H.264 or H.265."
            ) from error
        codec.options = {"max_pixels": str(MAX_IMAGE_PIXELS)}
        codec.thread_count = 1  # a process that is forked would lack the others
        return PacketDecoder(codec)


def decode_messages(
    messages: Iterable[tuple[int, Any]], name: str
) -> Iterator[tuple[int, int, str, NDArray[np.uint8]]]:
    """Decode the messages of a topic of video, each with the time it was recorded at, in recorded order.

    Yields time and stamp in nanoseconds, frame and image, RGB [H, W, 3]. Messages before the first keyframe are left
    out, as are those that do not decode: a warning counts them, and calls the topic `name`. Raises UserError if PyAV is
    not installed or does not know the codec.
    """
    decoder: VideoDecoder | None = None
    started = False
    early = 0
    waiting: dict[int, tuple[int, int, str]] = {}

    def images(frames: list[tuple[int, VideoFrame]]) -> Iterator[tuple[int, int, str, NDArray[np.uint8]]]:
        for number, frame in frames:
            if number in waiting:
                yield *waiting.pop(number), upright(frame)

    for number, (time, message) in enumerate(messages):
        decoder = decoder or VideoDecoder(codec_of(message))
        if not started and not decoder.is_keyframe(message.data):
            early += 1
            continue
        if not started and early:
            log.warning("left out: %s: %d frames before its first keyframe", name, early)
        started = True
        waiting[number] = (time, *stamp_and_frame(message))
        yield from images(decoder.decode(number, message.data))
    if decoder and started:
        yield from images(decoder.finish())
    elif early:
        log.warning("left out: %s: none of its %d frames is a keyframe", name, early)
    if waiting:
        log.warning(
            "left out: %s: %d frames do not decode, the first at %d ns", name, len(waiting), min(waiting.values())[0]
        )
