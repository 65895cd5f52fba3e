"""The Perceiver against the tiny student's formula in float64."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from students import INFO, expected

from dino_ros.errors import UserError
from dino_ros.masks import MaskParameters, attention_mask, upsample_mask
from dino_ros.perceiver import Perceiver


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def test_outputs_at_the_students_own_size(student: Path) -> None:
    rgb = picture(32, 48)
    seen = Perceiver.load(student)(rgb)
    answer = expected(rgb[None])
    np.testing.assert_allclose(seen.features, answer["features"][0], atol=1e-5)
    np.testing.assert_allclose(seen.attention, answer["attention"][0], atol=1e-6)
    np.testing.assert_allclose(seen.embedding, answer["embedding"][0], atol=1e-5)
    np.testing.assert_array_equal(seen.mask, upsample_mask(attention_mask(seen.attention, MaskParameters()), 32, 48))


@pytest.mark.parametrize("shape", [(480, 640), (17, 23), (720, 40)])
def test_any_size_goes_in_and_the_mask_has_it(student: Path, shape: tuple[int, int]) -> None:
    rgb = picture(*shape)
    seen = Perceiver.load(student)(rgb)
    interpolation = cv2.INTER_AREA if shape[0] >= 32 and shape[1] >= 48 else cv2.INTER_LINEAR
    resized = cv2.resize(rgb, (48, 32), interpolation=interpolation)
    np.testing.assert_allclose(seen.features, expected(resized[None])["features"][0], atol=1e-5)
    assert seen.mask.shape == shape


def test_a_batch_equals_its_pictures_one_by_one(student: Path) -> None:
    perceiver = Perceiver.load(student)
    pictures = [picture(50, 60, 1), picture(32, 48, 2), picture(200, 100, 3)]
    for together, rgb in zip(perceiver(pictures), pictures, strict=True):
        alone = perceiver(rgb)
        np.testing.assert_allclose(together.features, alone.features, atol=1e-6)
        np.testing.assert_array_equal(together.mask, alone.mask)


class CountingBackend:
    """Answers zeros, and remembers what it was asked for."""

    description = "counting"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        self.asked.append(list(outputs))
        shapes = {"features": (4, 6, 3), "attention": (3, 4, 6), "embedding": (3,)}
        return {name: np.ones((len(images), *shapes[name]), np.float32) for name in outputs}


@pytest.mark.parametrize(
    ("outputs", "asked"),
    [
        (["features"], ["features"]),
        (["mask"], ["attention"]),
        (["mask", "embedding"], ["attention", "embedding"]),
        ([], None),
    ],
)
def test_only_what_is_asked_for_is_computed(outputs: list[str], asked: list[str] | None) -> None:
    backend = CountingBackend()
    seen = Perceiver(INFO, backend)(picture(32, 48), outputs)
    assert backend.asked == ([asked] if asked else [])
    for name in ("features", "attention", "embedding", "mask"):
        assert (getattr(seen, name) is not None) == (name in outputs)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((32, 48), np.uint8),
        np.zeros((32, 48, 4), np.uint8),
        np.zeros((32, 48, 3), np.float32),
        np.zeros((0, 48, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(student: Path, bad: NDArray[np.generic]) -> None:
    perceiver = Perceiver.load(student)
    for images in (bad, [bad]):
        with pytest.raises(UserError, match=re.escape(f"uint8 RGB array [H, W, 3], not {bad.dtype} {list(bad.shape)}")):
            perceiver(images)


def test_mask_parameters_reach_the_mask(student: Path) -> None:
    rgb = picture(32, 48)
    parameters = MaskParameters(keep=0.2, head=1)
    seen = Perceiver.load(student)(rgb, mask=parameters)
    np.testing.assert_array_equal(seen.mask, upsample_mask(attention_mask(seen.attention, parameters), 32, 48))
    assert not np.array_equal(seen.mask, Perceiver.load(student)(rgb).mask)


def test_unknown_names_are_refused(student: Path) -> None:
    with pytest.raises(UserError, match="no output depth: choose among features"):
        Perceiver.load(student)(picture(32, 48), ["depth"])
    with pytest.raises(UserError, match="no backend 'abacus': choose one of auto, tensorrt, tensorrt_rtx, "):
        Perceiver.load(student, backend="abacus")
