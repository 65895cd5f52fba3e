"""The benchmark on one's own log: what it learns from, what it scores, and that its numbers are those of the files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import safetensors.torch
import torch
from numpy.typing import NDArray

from benchmarks import own_log
from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import read_student
from dino_train.models.backbones import create_vit
from dino_train.models.checkpoint import load_checkpoint

FRAMES = 16
SCENES = ("left", "right")


def frame(scene: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A bright disc that moves over noise, and its mask."""
    ground = np.random.default_rng([scene, number]).normal(80, 8, (48, 64, 3)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    cv2.circle(mask, (20 + 20 * scene + number, 24), 12, 255, -1)
    ground[mask > 0] = (230, 60, 40)
    return ground, mask


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own_log")
    for scene, name in enumerate(SCENES):
        for number in range(FRAMES):
            for kind, picture in zip(("images", "masks"), frame(scene, number), strict=True):
                file = folder / "truth" / kind / name / f"{number:05d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), picture[..., ::-1] if picture.ndim == 3 else picture)
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", patch_size=8, embed_dim=64, depth=2, num_heads=2, img_size=48)
    safetensors.torch.save_file(vit.state_dict(), folder / "encoder.safetensors")
    own_log.main(
        [
            *("--encoder", str(folder / "encoder.safetensors"), "--size", "48x64", "--truth", str(folder / "truth")),
            *("--varied", str(folder / "truth" / "images"), "--minutes", "0", "--out", str(folder / "out")),
        ]
    )
    return folder / "out"


def test_the_log_is_what_comes_first_and_has_no_masks(out: Path) -> None:
    for name in SCENES:
        log, later, masks = (
            {int(file.stem) for file in (out / folder / name).iterdir()}
            for folder in ("log", "later/images", "later/masks")
        )
        assert later == masks
        assert max(log) + 1 < min(later)
        assert (min(log), max(later)) == (0, FRAMES - 1)
    truth = {file.resolve() for file in (out.parent / "truth" / "masks").rglob("*.png")}
    assert not truth & {file.resolve() for file in (out / "log").rglob("*")}


def test_each_arm_is_the_file_that_it_says(out: Path) -> None:
    arms = json.loads((out / "own_log.json").read_text())
    assert [(name, arm["method"]) for name, arm in arms.items()] == [
        ("encoder, the paper's mask", "attention"),
        ("encoder", "smoothed_attention"),
        ("head", "foreground"),
        ("distilled", "smoothed_attention"),
        ("distilled, head", "foreground"),
        ("adapted, the paper's mask", "attention"),
        ("adapted", "smoothed_attention"),
        ("head, varied images", "foreground"),
    ]
    images = {name: read_student(out / arm["file"]).foreground_head.get("images") for name, arm in arms.items()}
    assert images["head"] == images["distilled, head"] == FRAMES
    assert images["head, varied images"] == 2 * FRAMES
    assert images["encoder"] is None
    assert arms["encoder"]["time"] == 1
    assert load_checkpoint(out / "distilled" / "last.pt").step == own_log.TRIAL
    assert cv2.imread(str(out / "own_log.png")).ndim == 3


def test_the_score_is_that_of_the_papers_mask_on_the_later_frames(out: Path) -> None:
    """By hand: the smallest set of patches with 60% of the attention, interpolated."""
    perceiver = Perceiver.load(out / "encoder.onnx")
    scenes = {}
    for scene, name in enumerate(SCENES):
        ious = []
        for number in sorted(int(file.stem) for file in (out / "later" / "images" / name).iterdir()):
            image, truth = frame(scene, number)
            attention = perceiver(image, ("attention",)).attention
            assert attention is not None
            mean = attention.mean(axis=0)
            largest = np.sort(mean.ravel())[::-1]
            kept = np.searchsorted(np.cumsum(largest) / largest.sum(), 0.6)
            patches = (mean >= largest[kept]).astype(np.float32)
            mask = cv2.resize(patches, (64, 48), interpolation=cv2.INTER_LINEAR) >= 0.5
            ious.append((mask & (truth > 0)).sum() / (mask | (truth > 0)).sum())
        scenes[name] = np.mean(ious)
    arm = json.loads((out / "own_log.json").read_text())["encoder, the paper's mask"]
    assert arm["scenes"] == pytest.approx(scenes)
    assert arm["iou"] == pytest.approx(np.mean([*arm["scenes"].values()]))


def test_a_folder_that_exists_is_not_written_to(out: Path) -> None:
    with pytest.raises(UserError, match="exists: name a new folder"):
        own_log.main(["--encoder", "x", "--truth", str(out / "later"), "--out", str(out)])
