"""Label propagation and the measures of DAVIS against loops in float64, and a video that is easy to follow."""

import json
import math
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from labeled_files import write_image, write_palette
from outlines import blob, slow_f

from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perception
from dino_train.cli import run
from dino_train.evaluation.segmentation.label_propagation import decide, propagate, segment_video
from dino_train.evaluation.segmentation.labeled_images import VOID, read_objects
from dino_train.evaluation.segmentation.video_folder import VideoSequence
from dino_train.evaluation.segmentation.video_segmentation import (
    SegmentedFrame,
    mean_scores,
    score_objects,
    segment_sequence,
    statistics,
)

Array = NDArray[np.float64]


def slow_propagation(
    target: Array, sources: list[Array], labels: list[Array], radius: int, nearest: int, temperature: float
) -> Array:
    """Patch by patch: all patches of the context in reach, the most alike of them, their weighted mean label."""
    height, width = target.shape[:2]
    result = np.zeros((height, width, labels[0].shape[-1]))
    for y in range(height):
        for x in range(width):
            candidates = []
            for source, label in zip(sources, labels, strict=True):
                for v in range(height):
                    for u in range(width):
                        if abs(v - y) <= radius and abs(u - x) <= radius:
                            one, other = target[y, x], source[v, u]
                            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
                            candidates.append((math.exp(cosine / temperature), label[v, u]))
            best = sorted(candidates, key=lambda pair: -pair[0])[:nearest]
            result[y, x] = sum(weight * label for weight, label in best) / sum(weight for weight, _ in best)
    return result


def slow_decision(labels: Array, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Each label upsampled by OpenCV and stretched to 0 to 1, then the highest at each pixel."""
    planes = []
    for number in range(labels.shape[-1]):
        plane = cv2.resize(labels[:, :, number], shape[::-1], interpolation=cv2.INTER_LINEAR)
        plane = plane - plane.min()
        planes.append(plane / plane.max() if plane.max() > 0 else plane)
    return np.argmax(planes, axis=0)


class GivenFeatures:
    """An encoder that answers with the features it was given, one frame after the other."""

    def __init__(self, frames: Collection[NDArray[np.float32]]) -> None:
        self.frames = iter(frames)

    def __call__(self, image: NDArray[np.uint8], outputs: Collection[str]) -> Perception:
        return Perception(next(self.frames), None, None, None)


class MeanColors:
    """The features of a patch of 8 pixels are its mean color; `shuffle` deals them out to other patches."""

    def __init__(self, shuffle: bool = False) -> None:
        self.rng = np.random.default_rng(0) if shuffle else None

    def __call__(self, image: NDArray[np.uint8], outputs: Collection[str]) -> Perception:
        height, width = (side // 8 for side in image.shape[:2])
        features = image.reshape(height, 8, width, 8, 3).mean(axis=(1, 3)) - 128
        if self.rng is not None:
            features = self.rng.permutation(features.reshape(-1, 3)).reshape(features.shape)
        return Perception(features.astype(np.float32), None, None, None)


@pytest.mark.parametrize(("frames", "radius", "nearest"), [(1, 2, 5), (3, 1, 5), (3, 12, 7), (2, 0, 5)])
def test_propagation_is_that_of_a_loop_over_patches(frames: int, radius: int, nearest: int) -> None:
    """The last two cases: all patches in reach, and fewer in reach than are asked for."""
    rng = np.random.default_rng(frames)
    target, *sources = rng.normal(size=(1 + frames, 5, 7, 6))
    labels = list(rng.dirichlet(np.ones(3), size=(frames, 5, 7)))
    expected = slow_propagation(target, sources, labels, radius, nearest, 0.1)
    unit = [torch.nn.functional.normalize(torch.from_numpy(array), dim=-1) for array in (target, *sources)]
    stacked = torch.stack([torch.from_numpy(label) for label in labels], dim=1)
    found = propagate(unit[0], torch.stack(unit[1:], dim=1), stacked, radius, nearest, 0.1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_decision_is_that_of_opencv() -> None:
    labels = np.random.default_rng(0).dirichlet((9, 1, 0.3), size=(6, 9))
    expected = slow_decision(labels, (50, 70))
    assert len(np.unique(expected)) == 3, "faint labels win where they are strongest"
    assert np.mean(decide(torch.from_numpy(labels), (50, 70)) == expected) > 0.999
    background = torch.zeros(4, 4, 3)
    background[:, :, 0] = 1
    assert not decide(background, (20, 20)).any(), "objects that are lost everywhere do not come back"


def test_a_video_is_segmented_from_its_first_frame_and_the_last_seven() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(12, 4, 6, 5)).astype(np.float32)
    first = np.kron(rng.choice(np.array([0, 3, 9, VOID], np.uint8), (4, 6)), np.ones((8, 8), np.uint8))
    images = np.zeros((12, 32, 48, 3), np.uint8)
    found = list(segment_video(GivenFeatures(features), images, first))
    assert len(found) == 11

    labels = [(first[4::8, 4::8, None] == np.array([0, 3, 9])).astype(float)]
    for number in range(1, 12):
        context = [0, *range(max(1, number - 7), number)]
        sources, known = [features[i].astype(float) for i in context], [labels[i] for i in context]
        labels.append(slow_propagation(features[number].astype(float), sources, known, 12, 5, 0.1))
        expected = np.array([0, 3, 9])[slow_decision(labels[-1], (32, 48))]
        assert np.mean(found[number - 1] == expected) > 0.995


def slow_statistics(values: list[float]) -> tuple[float, float, float]:
    """Mean, recall and decay with the limits of the quarters counted from 1, halves rounded up."""
    count = len(values)
    limits = [math.floor(1 + (count - 1) * part / 4 + 0.5) for part in range(5)]
    first, last = values[limits[0] - 1 : limits[1]], values[limits[3] - 1 : limits[4]]
    recall = sum(value > 0.5 for value in values) / count
    return sum(values) / count, recall, sum(first) / len(first) - sum(last) / len(last)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9, 58, 300])
def test_statistics_are_those_of_the_benchmark(count: int) -> None:
    values = np.random.default_rng(count).uniform(size=count)
    values[0] = 0.5
    assert statistics(values) == pytest.approx(slow_statistics(values.tolist()))


def test_scores_of_objects_are_those_of_loops() -> None:
    """Two objects and void pixels; one object is gone from some frames, and from some masks."""
    rng = np.random.default_rng(6)
    frames = []
    for number in range(7):
        masks = []
        for _ in range(2):
            mask = 2 * blob(rng, (30, 40), 4).astype(np.uint8)
            mask[blob(rng, (30, 40), 5)] = 5
            masks.append(mask)
        truth, found = masks[0], np.where(blob(rng, (30, 40), 3), masks[0], masks[1])
        if number in (2, 3):
            truth[truth == 5] = 0
        if number in (3, 4):
            found[found == 5] = 0
        truth[10:14] = VOID
        frames.append(SegmentedFrame("", np.zeros((30, 40, 3), np.uint8), truth, found))
    scores = score_objects(frames)
    assert [one.number for one in scores] == [2, 5]
    for one in scores:
        j, f = [], []
        for frame in frames[1:-1]:
            truth = frame.truth == one.number
            mask = (frame.predicted == one.number) & (frame.truth != VOID)
            pixels = [{(int(y), int(x)) for y, x in np.argwhere(m)} for m in (mask, truth)]
            j.append(len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1]) if any(pixels) else 1.0)
            f.append(slow_f(mask, truth))
        assert one.j == pytest.approx(slow_statistics(j))
        assert one.f == pytest.approx(slow_statistics(f))
    named = mean_scores(scores)
    assert named["J decay"] == pytest.approx(sum(one.j.decay for one in scores) / 2)
    assert named["J&F"] == pytest.approx(sum(one.j.mean + one.f.mean for one in scores) / 4)
    assert list(named) == ["J&F", "J mean", "J recall", "J decay", "F mean", "F recall", "F decay"]


def write_moving_squares(folder: Path, frames: int = 7) -> VideoSequence:
    """Two squares that move a patch of 8 pixels a frame, on a ground of one color, all with noise."""
    rng = np.random.default_rng(1)
    files = []
    for number in range(frames):
        masks = np.zeros((96, 160), np.uint8)
        masks[16:48, 8 + 8 * number : 40 + 8 * number] = 1
        masks[56:88, 120 - 8 * number : 152 - 8 * number] = 2
        colors = np.array([[60, 150, 90], [220, 60, 50], [60, 70, 230]])
        image = (colors[masks] + rng.normal(0, 12, (96, 160, 3))).clip(0, 255).astype(np.uint8)
        file, mask = (folder / part / "squares" / f"{number:05d}.png" for part in ("images", "masks"))
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image[:, :, ::-1])
        write_palette(mask, masks)
        files.append((file, mask))
    return VideoSequence("squares", files)


def test_moving_squares_are_followed_by_their_colors_and_not_by_chance(tmp_path: Path) -> None:
    sequence = write_moving_squares(tmp_path)
    for one in score_objects(segment_sequence(MeanColors(), sequence)):
        assert one.j.mean > 0.97
        assert one.f.mean > 0.97
    assert mean_scores(score_objects(segment_sequence(MeanColors(shuffle=True), sequence)))["J&F"] < 0.3


def test_moving_squares_that_were_taught_are_found_frame_by_frame_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    sequence = write_moving_squares(tmp_path, 9)
    for one in score_objects(segment_sequence(MeanColors(), sequence, "taught")):
        assert one.j.mean > 0.9
        assert one.f.mean > 0.9
    assert mean_scores(score_objects(segment_sequence(MeanColors(shuffle=True), sequence, "taught")))["J&F"] < 0.3

    gone = sequence.files[5:]
    for image, _ in gone:
        covered = cv2.imread(str(image))
        covered[:52] = (90, 150, 60)
        cv2.imwrite(str(image), covered)
    *_, last = segment_sequence(MeanColors(), sequence, "taught")
    assert set(np.unique(last.predicted)) == {0, 2}


def test_a_sequence_that_cannot_be_used_gets_one_sentence(tmp_path: Path) -> None:
    sequence = write_moving_squares(tmp_path, 4)
    one = VideoSequence("short", sequence.files[:1])
    with pytest.raises(UserError, match="sequence short has 1 frames"):
        list(segment_sequence(MeanColors(), one))

    image, mask = sequence.files[2]
    mask.rename(tmp_path / "kept.png")
    with pytest.raises(UserError, match=r"masks/squares/00002\.png does not exist"):
        list(segment_sequence(MeanColors(), sequence))
    (tmp_path / "kept.png").rename(mask)
    write_image(image, (96, 168))
    with pytest.raises(UserError, match=r"00002\.png is 96x160.* 96x168"):
        list(segment_sequence(MeanColors(), sequence))
    write_palette(mask, np.ones((96, 168), np.uint8))
    with pytest.raises(UserError, match=r"00002\.png .*size"):
        list(segment_sequence(MeanColors(), sequence))
    write_palette(sequence.files[0][1], np.full((96, 160), VOID, np.uint8))
    with pytest.raises(UserError, match=r"00000\.png has no object"):
        list(segment_sequence(MeanColors(), sequence))


def test_video_through_the_command(student: Path, tmp_path: Path) -> None:
    sequence = write_moving_squares(tmp_path, 5)
    out, save = tmp_path / "scores.json", tmp_path / "found"
    run(["evaluate", "video", str(student), "--data", str(tmp_path), "--out", str(out), "--save", str(save)])
    found = json.loads(out.read_text())
    assert [row["object"] for row in found["objects"]] == [1, 2]
    for kind in ("J mean", "F mean", "J&F"):
        mean = sum(row[kind] for row in found["objects"]) / 2
        assert found["rows"][0][kind] == found["sequences"][0][kind] == pytest.approx(mean)

    (folder,) = (path.parent for path in save.rglob("strip.png"))
    masks = [read_objects(folder / mask.name) for _, mask in sequence.files]
    frames = [
        SegmentedFrame("", np.zeros((96, 160, 3), np.uint8), read_objects(mask), ours)
        for (_, mask), ours in zip(sequence.files, masks, strict=True)
    ]
    assert mean_scores(score_objects(frames))["J&F"] == pytest.approx(found["rows"][0]["J&F"]), (
        "what is saved is scored"
    )
    assert cv2.imread(str(folder / "strip.png")).shape == (180, 5 * 300, 3)
