"""The Perceiver against the tiny student's formula in float64."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import image
from students import INFO, expected

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.parameters import ATTENTION, MaskParameters
from dino_ros.masks.track import FINE, shrink
from dino_ros.perception.perceiver import OUTPUTS, Perceiver, PreparedImage


def enlarged(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask of the patch grid at the student's size, interpolated linearly and cut at one half."""
    return 255 * (cv2.resize(mask.astype(np.float32), (48, 32)) > 0.5).astype(np.uint8)


def test_outputs_at_the_students_own_size(student: Path) -> None:
    rgb = image(32, 48)
    seen = Perceiver.load(student)(rgb, mask=ATTENTION)
    answer = expected(rgb[None])
    np.testing.assert_allclose(seen.features, answer["features"][0], atol=1e-5)
    np.testing.assert_allclose(seen.attention, answer["attention"][0], atol=1e-6)
    np.testing.assert_allclose(seen.embedding, answer["embedding"][0], atol=1e-5)
    np.testing.assert_array_equal(seen.mask, enlarged(attention_mask(seen.attention)))


@pytest.mark.parametrize("shape", [(480, 640), (17, 23), (720, 40)])
def test_any_size_goes_in_and_the_mask_has_it(student: Path, shape: tuple[int, int]) -> None:
    rgb = image(*shape)
    seen = Perceiver.load(student)(rgb)
    resized = resize(rgb, 32, 48)
    np.testing.assert_allclose(seen.features, expected(resized[None])["features"][0], atol=1e-5)
    assert seen.mask.shape == shape


def test_a_batch_equals_its_images_one_by_one(student: Path) -> None:
    perceiver = Perceiver.load(student)
    images = [image(50, 60, 1), image(32, 48, 2), image(200, 100, 3)]
    for together, rgb in zip(perceiver(images), images, strict=True):
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
    ("outputs", "mask", "asked"),
    [
        (["features"], ATTENTION, ["features"]),
        (["mask"], ATTENTION, ["attention"]),
        (["mask", "embedding"], ATTENTION, ["attention", "embedding"]),
        (["mask"], MaskParameters(), ["attention", "features"]),
        (["mask"], MaskParameters("lost"), ["features"]),
        (["objects", "embedding"], MaskParameters("lost"), ["embedding", "features"]),
        (["objects"], ATTENTION, ["attention", "features"]),  # objects are known again by their features
        (["objects"], dataclasses.replace(ATTENTION, remember=0.0), ["attention"]),
        ([], ATTENTION, None),
    ],
)
def test_only_what_is_asked_for_is_computed(outputs: list[str], mask: MaskParameters, asked: list[str] | None) -> None:
    backend = CountingBackend()
    seen = Perceiver(INFO, backend)(image(32, 48), outputs, mask)
    assert backend.asked == ([asked] if asked else [])
    for name in OUTPUTS:
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
def test_what_is_no_image_is_refused(student: Path, bad: NDArray[np.generic]) -> None:
    perceiver = Perceiver.load(student)
    for images in (bad, [bad]):
        with pytest.raises(UserError, match=re.escape(f"uint8 RGB array [H, W, 3], not {bad.dtype} {list(bad.shape)}")):
            perceiver(images)


def test_mask_parameters_reach_the_mask(student: Path) -> None:
    rgb = image(32, 48)
    perceiver = Perceiver.load(student)
    seen = perceiver(rgb, mask=dataclasses.replace(ATTENTION, attention_mass=0.2, attention_head=1))
    np.testing.assert_array_equal(seen.mask, enlarged(attention_mask(seen.attention, 0.2, 1)))
    assert not np.array_equal(seen.mask, perceiver(rgb, mask=ATTENTION).mask)


def test_mask_parameters_that_do_not_suit_the_student_are_refused(student: Path) -> None:
    perceiver = Perceiver.load(student)
    for values in ({"method": "foreground"}, {"attention_head": 3}):
        ((name, value),) = values.items()
        with pytest.raises(UserError, match=f"mask_{name} is {value}"):
            perceiver(image(32, 48), mask=MaskParameters(**values))


def test_objects_are_the_parts_of_the_mask(student: Path) -> None:
    seen = Perceiver.load(student)(image(96, 144))
    assert seen.objects.dtype == np.uint16
    assert seen.objects.any()
    assert not seen.objects[seen.mask == 0].any()


def test_unknown_names_are_refused(student: Path) -> None:
    with pytest.raises(UserError, match="no output depth: choose among features"):
        Perceiver.load(student)(image(32, 48), ["depth"])
    with pytest.raises(UserError, match="no backend 'abacus': choose one of auto, tensorrt, tensorrt_rtx, "):
        Perceiver.load(student, backend="abacus")


@pytest.mark.parametrize(
    "size", [(480, 640), (481, 639), (720, 1280), (1080, 1920), (2160, 3840), (100, 80), (300, 1000)]
)
@pytest.mark.parametrize("student", [(224, 224), (240, 320), (280, 280), (448, 448), (64, 480)])
def test_what_masks_are_made_from_leads_to_the_same_input(size: tuple[int, int], student: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    prepared = PreparedImage.of(rgb, *student, 7)
    np.testing.assert_array_equal(prepared.input, resize(rgb, *student))
    assert prepared.reduced is not None
    np.testing.assert_array_equal(prepared.reduced, shrink(rgb, FINE))
    assert (prepared.size, prepared.stamp) == (size, 7)
