"""Bags as sources of frames: a source for each topic that holds images."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from dino_ros.errors import UserError
from dino_ros.images.bags import choose_image_topics, label_word
from dino_ros.images.video_messages import VIDEO_TYPES
from dino_train.data.bags import BagFrames
from dino_train.data.index import index_bag
from dino_train.data.video_topics import VideoTopicFrames

log = logging.getLogger(__name__)


def open_bag_frames(path: Path, topics: Sequence[str] = ()) -> tuple[list[BagFrames], dict[str, str]]:
    """Open the named topics of a bag, by default every topic that holds images or video.

    Topics whose name or frames are those of labels or depth are left out unless they are named; so is the encoding
    16UC1, which is then taken as gray levels. Returns the frames of each topic, and the topics that were left out with
    the reason. Raises UserError if the bag cannot be read, if a named topic is missing or holds no images, or if no
    topic holds any.
    """
    index = index_bag(path)
    if (index.chunks["compression"] == b"bz2").any():
        log.warning(
            "%s is compressed with bz2, from which frames are read 20 times as slowly: convert it, `rosbags-convert "
            "--src %s --dst %s --dst-storage mcap`.",
            path.name,
            shlex.quote(str(path)),
            shlex.quote(str(path.with_suffix(""))),
        )
    types = {name: topic.type for name, topic in index.topics.items()}
    names = choose_image_topics(path, types, topics)
    chosen = [
        VideoTopicFrames(index, topic) if types[topic] in VIDEO_TYPES else BagFrames(index, topic, bool(topics))
        for topic in names
    ]
    reasons = {frames.topic: reason for frames in chosen if (reason := frames.why_not_images())}
    if topics:
        for topic, reason in reasons.items():
            raise UserError(f"The topic {topic} of {path} holds no images ({reason}): give another --topic.")
    else:
        reasons |= {
            frames.topic: f"{reason}; to take it, name it with --topic"
            for frames in chosen
            if frames.topic not in reasons and (reason := _why_labels(frames))
        }
    if len(reasons) == len(chosen):
        listing = "; ".join(f"{topic}: {reason}" for topic, reason in reasons.items())
        raise UserError(f"{path} holds no images on its image topics ({listing}): choose another bag.")
    for topic, reason in reasons.items():
        log.info("%s: left out %s: %s", path.name, topic, reason)
    if not topics and (others := sorted(index.topics.keys() - index.messages.keys())):
        log.info("%s: %d topics are not of images: %s", path.name, len(others), ", ".join(others))
        reasons |= {topic: f"it is of type {types[topic]}, not of images" for topic in others}
    return [frames for frames in chosen if frames.topic not in reasons], reasons


def _why_labels(frames: BagFrames) -> str:
    """Why a topic is taken to hold labels or depth; "" where it is not."""
    if word := label_word(frames.topic):
        return f"its name says {word}"
    return "its frames are flat areas of a few values, as labels are" if frames.are_labels() else ""
