"""Scores of attention masks against loops over pixels, and cases worked out by hand."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from labeled_files import write_image, write_palette

from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perception
from dino_train.cli import run
from dino_train.evaluation.segmentation.jaccard import jaccard_scores
from dino_train.evaluation.segmentation.labeled_images import VOID, LabeledImage


class GivenAttention:
    """An encoder that answers with the attentions it was given, one after the other."""

    def __init__(self, *attentions: NDArray[np.float32]) -> None:
        self.attentions = iter(attentions)

    def __call__(self, image: NDArray[np.uint8], outputs: Collection[str]) -> Perception:
        return Perception(None, next(self.attentions), None, None)


Pixels = set[tuple[int, int]]


def slow_mask(attention: NDArray[np.float32], mass: float) -> Pixels:
    """Take the strongest pixel until the share is reached."""
    left = {(y, x): float(attention[y, x]) for y in range(attention.shape[0]) for x in range(attention.shape[1])}
    total, taken, mask = sum(left.values()), 0.0, set()
    while taken < mass * total:
        strongest = max(left, key=lambda pixel: left[pixel])
        taken += left.pop(strongest)
        mask.add(strongest)
    return mask


def slow_jaccard(mask: Pixels, truth: Pixels, void: Pixels) -> float:
    return len((mask & truth) - void) / len((mask | truth) - void)


def slow_scores(
    attentions: list[NDArray[np.float32]], labeled: list[NDArray[np.uint8]], mass: float
) -> dict[str, float]:
    """All but the 80 % variant."""
    per_image, per_object, best, united, mean = [], [], [], [], []
    for attention, objects in zip(attentions, labeled, strict=True):
        pixels = {n: {(int(y), int(x)) for y, x in np.argwhere(objects == n)} for n in np.unique(objects)}
        void = pixels.pop(VOID, set())
        pixels.pop(0, None)
        heads = [slow_mask(head, mass) for head in attention]
        every = set().union(*pixels.values())
        of_objects = [max(slow_jaccard(head, truth, void) for head in heads) for truth in pixels.values()]
        per_object += of_objects
        per_image.append(sum(of_objects) / len(of_objects))
        best.append(max(slow_jaccard(head, every, void) for head in heads))
        united.append(slow_jaccard(set().union(*heads), every, void))
        mean.append(slow_jaccard(slow_mask(sum(attention) / len(attention), mass), every, void))
    return {
        "paper": float(np.mean(per_image)),
        "best_head_per_object": float(np.mean(per_object)),
        "best_head": float(np.mean(best)),
        "united_heads": float(np.mean(united)),
        "mean_of_heads": float(np.mean(mean)),
        "objects": len(per_object),
    }


@pytest.mark.parametrize("mass", [0.6, 0.3])
def test_scores_are_those_of_a_loop_over_pixels(mass: float) -> None:
    """Attention at the masks' own resolution, several objects, and void pixels."""
    rng = np.random.default_rng(0)
    attentions = [rng.gamma(0.5, size=(4, 9, 14)).astype(np.float32) for _ in range(5)]
    for attention in attentions:
        attention[1, 2:6, 3:9] *= 8  # one head sees an object
    objects = [np.zeros((9, 14), np.uint8) for _ in range(5)]
    for number, mask in enumerate(objects):
        mask[2:6, 3:9] = 3
        mask[1:3, 9:13] = 1
        mask[6:8, : 2 * number] = 2  # the first image has one object less
        mask[6, :] = VOID
        mask[:, 8] = VOID
    labeled: list[LabeledImage] = [(np.zeros((9, 14, 3), np.uint8), mask) for mask in objects]
    scores = jaccard_scores(GivenAttention(*attentions), labeled, mass)
    expected = slow_scores(attentions, objects, mass)
    assert len({round(value, 6) for value in expected.values()}) == len(expected), "the case tells the scores apart"
    assert {name: getattr(scores, name) for name in expected} == pytest.approx(expected)
    assert scores.best_head_per_object_80 == pytest.approx(
        slow_scores(attentions, objects, 0.8)["best_head_per_object"]
    )


def test_void_pixels_count_neither_in_the_intersection_nor_in_the_union() -> None:
    attention = np.zeros((1, 4, 4), np.float32)
    attention[:, :, :2] = 1 / 8  # all of it in the left half, columns 0 to 15
    objects = np.zeros((32, 32), np.uint8)
    objects[:, 8:24] = 5
    objects[:, 4:8] = objects[:, 20:24] = VOID
    scores = jaccard_scores(GivenAttention(attention), [(np.zeros((32, 32, 3), np.uint8), objects)], attention_mass=1)
    # The mask has columns 0 to 3 and 8 to 15, the object 8 to 19: 8 columns of 16.
    assert scores.best_head_per_object == scores.mean_of_heads == 8 / 16


def test_images_without_objects_are_left_out() -> None:
    attention = np.ones((1, 2, 2), np.float32)
    image, nothing = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    void, thing = nothing + np.uint8(VOID), nothing + np.uint8(1)
    labeled = [(image, mask) for mask in (nothing, void, thing)]
    scores = jaccard_scores(GivenAttention(attention), labeled, attention_mass=1)
    assert (scores.images, scores.objects, scores.paper) == (1, 1, 1)
    with pytest.raises(UserError, match="No image has an object"):
        jaccard_scores(GivenAttention(), labeled[:2])


def test_voc_through_the_command(student: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("a", "b", "c"):
        write_image(tmp_path / "voc" / "JPEGImages" / f"{name}.jpg", (40, 56))
        numbers = rng.choice(np.array([0, 1, 2, VOID], np.uint8), (5, 7))
        write_palette(
            tmp_path / "voc" / "SegmentationObject" / f"{name}.png", np.kron(numbers, np.ones((8, 8), np.uint8))
        )
    (tmp_path / "voc" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").write_text("a\nc\n")
    out = tmp_path / "scores.json"
    run(
        [
            "evaluate",
            "jaccard",
            str(student),
            "--data",
            str(tmp_path / "voc"),
            "--attention_mass",
            "0.7",
            "--out",
            str(out),
        ]
    )
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert "70%" in found["title"]
    assert (row["encoder"], row["images"], row["objects"]) == (str(student), 2, 4)
    shares = [value for value in row.values() if isinstance(value, float)]
    assert len(shares) == 6
    assert all(0 < share < 1 for share in shares)
