"""Whole runs of `dino-train pretrain` on small rendered data: they learn, stop and go on, and refuse what is wrong."""

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from shapes import KINDS, render_shape  # noqa: E402

from dino_ros.errors import UserError  # noqa: E402
from dino_train import trainer  # noqa: E402
from dino_train.backbones import mean_and_std  # noqa: E402
from dino_train.checkpoint import checkpoint_backbone, load_checkpoint  # noqa: E402
from dino_train.cli import run  # noqa: E402
from dino_train.config import BackboneConfig, CropsConfig, DinoConfig, OptimiserConfig, Recipe  # noqa: E402
from dino_train.data.multicrop import normalise  # noqa: E402
from dino_train.evaluation.knn import knn_accuracy  # noqa: E402

RECIPE = Recipe(
    backbone=BackboneConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=64, depth=3, num_heads=2, drop_path=0.0),
    crops=CropsConfig(32, 16, local_crops=2, global_scale=(0.6, 1.0), local_scale=(0.25, 0.6), colour=0.3),
    dino=DinoConfig(
        out_dim=256,
        hidden_dim=256,
        bottleneck_dim=64,
        teacher_temperature_start=0.015,
        teacher_temperature=0.03,
        teacher_temperature_epochs=4,
        centre_momentum=0.8,
        teacher_momentum=0.98,
    ),
    optimiser=OptimiserConfig(lr=4e-3, warmup_epochs=2),
    epochs=12,
    batch_size=64,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for number in range(640):
        cv2.imwrite(str(folder / f"{number:04d}.png"), render_shape(number % KINDS, rng)[:, :, ::-1])
    return folder


def read_log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / trainer.LOG_NAME).read_text().splitlines()]


def shapes_accuracy(vit: torch.nn.Module) -> float:
    """k-NN on fresh pictures, whose kind is the label."""
    rng = np.random.default_rng(99)
    kinds = torch.arange(400) % KINDS
    rgb = np.stack([render_shape(int(kind), rng, size=32) for kind in kinds])
    inputs = normalise(torch.from_numpy(rgb).permute(0, 3, 1, 2), *mean_and_std(vit))
    with torch.inference_mode():
        embeddings = vit.eval()(inputs)
    return knn_accuracy(embeddings[:200], kinds[:200], embeddings[200:], kinds[200:])


def test_a_run_learns(pictures: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trainer.pretrain(RECIPE, [str(pictures)], [], tmp_path, device="cpu", workers=1))
    log = read_log(tmp_path)
    losses = [line["loss"] for line in log]
    top = math.log(RECIPE.dino.out_dim)
    assert np.mean(losses[-3:]) < 0.8 * max(losses), "the loss falls"
    entropy = log[-1]["teacher_entropy"]
    assert 0.05 * top < entropy < 0.95 * top, "the teacher neither says always the same nor nothing"
    accuracy = shapes_accuracy(checkpoint_backbone(checkpoint, "teacher"))
    assert accuracy > 0.6, f"k-NN {accuracy}, chance {1 / KINDS}; embeddings that collapse fall to chance"
    assert log[0]["lr"] < log[3]["lr"]
    assert checkpoint.step == log[-1]["step"] == 120


class Interrupted(Exception):
    """Stands for the machine's power going."""


@pytest.mark.parametrize("stop_after", [7, 13])
def test_an_interrupted_run_goes_on_exactly(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    backbone = dataclasses.replace(RECIPE.backbone, drop_path=0.2)  # so that the model draws random numbers too
    recipe = dataclasses.replace(RECIPE, backbone=backbone, epochs=2, seed=3)
    whole = load_checkpoint(trainer.pretrain(recipe, [str(pictures)], [], tmp_path / "whole", device="cpu", workers=0))

    saved = []

    def save_and_stop(checkpoint: object, path: Path) -> None:
        original(checkpoint, path)
        saved.append(checkpoint)
        if len(saved) == stop_after:
            raise Interrupted

    original = trainer.save_checkpoint
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(trainer, "save_checkpoint", save_and_stop)
    with pytest.raises(Interrupted):
        trainer.pretrain(recipe, [str(pictures)], [], tmp_path / "cut", device="cpu", workers=0)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "cut" / trainer.CHECKPOINT_NAME).step == stop_after
    resumed = load_checkpoint(trainer.resume_run(tmp_path / "cut", device="cpu", workers=1))

    assert resumed.step == whole.step
    for name, tensor in whole.objective.items():
        assert torch.equal(tensor, resumed.objective[name]), name
    assert [line["loss"] for line in read_log(tmp_path / "cut")] == [
        line["loss"] for line in read_log(tmp_path / "whole")
    ]


def test_a_run_resumes_only_on_the_same_data(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(70):
        (folder / f"{number:04d}.png").write_bytes((pictures / f"{number:04d}.png").read_bytes())
    recipe = dataclasses.replace(RECIPE, epochs=1)
    trainer.pretrain(recipe, [str(folder)], [], tmp_path / "run", device="cpu", workers=0)
    (folder / "0000.png").unlink()
    with pytest.raises(UserError, match="now has 69 pictures, the checkpoint was made with 70"):
        trainer.resume_run(tmp_path / "run", device="cpu")


def test_bad_settings_get_one_sentence(pictures: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    for arguments, sentence in (
        ([str(pictures), "--config", "nothing"], "no recipe 'nothing'.*robot_bag"),
        ([str(pictures), "--batch_size", "1000"], "has 640 pictures, fewer than one batch: set batch_size to 640"),
        ([str(pictures), "--crops.global_size", "100"], "global_size is 100, .* patch size 16: choose 96"),
        ([str(pictures), "--backbone.name", "vit_nothing"], "cannot make the backbone 'vit_nothing'"),
        ([str(pictures), "--backbone.name", "resnet18"], "'resnet18'"),
        ([str(pictures), "--backbone.embed_dim", "100"], "cannot make the backbone"),
        (["/nowhere"], "/nowhere does not exist"),
        (["--resume", str(tmp_path / "none")], "no checkpoint .*none"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            run(["pretrain", *arguments, *out])
        assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK rubbish")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of `dino-train pretrain`"):
        load_checkpoint(tmp_path / "other.pt")
