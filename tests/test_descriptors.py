"""Descriptors of objects against a loop over pixels, and on the demo's recording."""

from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.images.encodings import to_rgb
from dino_ros.images.sources import open_source
from dino_ros.masks.boxes import boxes
from dino_ros.masks.descriptors import object_descriptors
from dino_ros.masks.maker import MaskMaker
from dino_ros.perception.perceiver import Perceiver


def pixel_by_pixel(features: NDArray[np.float32], objects: NDArray[np.uint16]) -> dict[int, NDArray[np.float64]]:
    """The mean token by number; a pixel's token is that of the patch in which its center lies."""
    tokens: dict[int, list[NDArray[np.float32]]] = {}
    for y, x in np.argwhere(objects):
        row = int((y + 0.5) / objects.shape[0] * features.shape[0])
        column = int((x + 0.5) / objects.shape[1] * features.shape[1])
        tokens.setdefault(int(objects[y, x]), []).append(features[row, column])
    return {number: np.mean(tokens[number], axis=0, dtype=np.float64) for number in sorted(tokens)}


@pytest.mark.parametrize("size", [(60, 77), (6, 7), (13, 9), (3, 2)])
def test_the_mean_of_the_tokens_under_each_object(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 7, 12)).astype(np.float32)
    objects = rng.choice(np.array([0, 0, 0, 65535, 7, 300], np.uint16), size)
    expected = pixel_by_pixel(features, objects)
    assert [*expected] == [*boxes(objects)], "the order of the detections"
    found = object_descriptors(features, objects)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack([*expected.values()]), atol=1e-6)


def test_without_objects_there_are_no_rows() -> None:
    assert object_descriptors(np.ones((6, 7, 12), np.float32), np.zeros((60, 77), np.uint16)).shape == (0, 12)


def test_an_object_stays_nearer_to_itself_than_to_the_others() -> None:
    """Cosine similarity from frame to frame of the demo's recording: itself 0.999 or more, others 0.42 or less."""
    perceiver, maker = Perceiver.load("table_vit_micro_8", backend="onnxruntime"), MaskMaker()
    request = perceiver.request(["features", "objects"])
    before: dict[int, NDArray[np.float32]] = {}
    itself, others = [], []
    for frame in islice(open_source(TABLE, TOPIC), 8):
        image = perceiver.prepare_image(to_rgb(frame.image), stamp=frame.stamp)
        (result,) = perceiver.infer([image.input], sorted(request.student_outputs))
        seen = perceiver.finish(result, image, request, maker)
        assert seen.features is not None
        assert seen.objects is not None
        rows = object_descriptors(seen.features, seen.objects)
        now = dict(zip(boxes(seen.objects), rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
        for number, descriptor in now.items():
            itself += [descriptor @ before[number]] if number in before else []
            others += [descriptor @ another for other, another in before.items() if other != number]
        before = now
    assert len(itself) > 10
    assert min(itself) > 0.99
    assert max(others) < 0.7
