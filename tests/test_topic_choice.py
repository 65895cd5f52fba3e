"""Which topics of a bag are taken: those of a transport where the raw ones were not recorded, and none of labels."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("jsonargparse")

from bags import encoded, raw, write_topics

from dino_ros.demo.table import TABLE, TOPIC, TRUTH_TOPIC
from dino_ros.errors import UserError
from dino_ros.images.bags import label_word
from dino_ros.images.sources import BagSource, open_source
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.frames import open_frames


def noise(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def blobs(seed: int) -> NDArray[np.uint8]:
    """Two objects, numbered, on background [48, 64]."""
    labels = np.zeros((48, 64), np.uint8)
    for number in (1, 2):
        cv2.circle(labels, (16 * number + seed, 20 + seed), 8, 60 * number, -1)
    return labels


def test_a_transport_stands_for_the_topic_that_was_not_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = encoded("jpg", noise())
    bag = write_topics(tmp_path / "bag", {f"/{side}/image_raw/compressed": [picture] for side in ("front", "rear")})
    asked = ["/front/image_raw"]
    with caplog.at_level(logging.WARNING):
        ((frames,), _) = open_bag_frames(bag, asked)
        played = open_source(bag, *asked)
    assert isinstance(played, BagSource)
    assert frames.topic == played.topic == "/front/image_raw/compressed"
    said = "bag has no topic /front/image_raw: taking /front/image_raw/compressed."
    assert [record.message for record in caplog.records] == [said, said]
    weighted = open_frames([bag], ["/front/image_raw", "/rear/image_raw"], {"/rear/image_raw": 2.0})
    assert weighted.weights == [1.0, 2.0]
    for near in ("/front", "/front/image", "image_raw"):  # no transport's name is only a part of another one
        with pytest.raises(UserError, match=f"has no topic {near}, its image topics are .*: name one with --topic"):
            open_bag_frames(bag, [near])


def test_jpeg_comes_before_other_transports_and_raw_before_all(tmp_path: Path) -> None:
    picture = encoded("png", noise())
    topics = {f"/camera/image{end}": [picture] for end in ("/zstd", "/compressed")}
    several = write_topics(tmp_path / "several", topics)
    assert open_bag_frames(several, ["/camera/image"])[0][0].topic == "/camera/image/compressed"
    with_raw = write_topics(tmp_path / "raw", {**topics, "/camera/image": [raw("rgb8", noise())]})
    assert [frames.topic for frames in open_bag_frames(with_raw, ["/camera/image"])[0]] == ["/camera/image"]


@pytest.mark.parametrize(
    ("topic", "word"),
    [
        ("/ground_truth/mask/compressed", "mask"),
        ("/camera/depth/image_rect_raw", "depth"),
        ("/camera/aligned_depth_to_color/image_raw", ""),
        ("/depth_camera/rgb/image_raw", ""),
        ("/semantic_segmentation/labels_map", "label"),
        ("/camera/image_raw", ""),
        ("/unmasked/image", ""),
    ],
)
def test_names_of_labels(topic: str, word: str) -> None:
    assert label_word(topic) == word


def test_labels_are_left_out_by_name_and_by_content_unless_they_are_named(tmp_path: Path) -> None:
    masks = [blobs(seed) for seed in range(3)]
    dark = (noise() * 0.08).astype(np.uint8)
    topics = {
        "/camera": [raw("rgb8", noise(seed)) for seed in range(3)],
        "/at_night": [raw("rgb8", dark)],
        "/covered": [raw("mono8", np.zeros((48, 64), np.uint8))],  # one value tells nothing
        "/objects": [raw("mono8", mask) for mask in masks],
        "/packed_objects": [encoded("jpg", cv2.resize(mask, (640, 480))[:, :, None].repeat(3, 2)) for mask in masks],
        "/mask": [raw("rgb8", noise())],
    }
    bag = write_topics(tmp_path / "bag", topics)
    frames, left_out = open_bag_frames(bag)
    assert {source.topic for source in frames} == {"/camera", "/at_night", "/covered"}
    assert left_out["/mask"] == "its name says mask; to take it, name it with --topic"
    for topic in ("/objects", "/packed_objects"):
        assert left_out[topic].endswith("as labels are; to take it, name it with --topic")
    named = [*left_out]
    assert [source.topic for source in open_bag_frames(bag, named)[0]] == named


def test_the_demo_needs_no_topic() -> None:
    played = open_source(TABLE)
    assert isinstance(played, BagSource)
    assert played.topic == TOPIC
    assert [source.topic for source in open_bag_frames(TABLE, [TRUTH_TOPIC])[0]] == [TRUTH_TOPIC]


def test_frames_of_a_camera_are_not_labels(test_data: Path) -> None:
    ((frames,), _) = open_bag_frames(test_data / "bags" / "euroc_micro")
    assert not frames.are_labels()
