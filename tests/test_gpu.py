"""What needs an NVIDIA GPU: `pytest -m gpu` on a machine that has one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from shapes import write_shapes

from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.loader import EpochSampler, crop_loader, finish_crops
from dino_train.models.checkpoint import load_checkpoint
from dino_train.recipes import CropsConfig, DinoRecipe
from dino_train.runs.log import LOG_NAME
from dino_train.training import trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), 320)


def recipe() -> DinoRecipe:
    from tiny_recipe import RECIPE

    return dataclasses.replace(RECIPE, epochs=4)


def losses(images: Path, out: Path, **machine: object) -> list[float]:
    settings = MachineConfig(device="cuda", workers=2, **machine)  # type: ignore[arg-type]
    trainer.train(recipe(), DataConfig([str(images)]), out, settings, EvaluationConfig(every=0))
    return [json.loads(line)["loss"] for line in (out / LOG_NAME).read_text().splitlines()]


def test_crops_colored_on_the_gpu_are_those_of_the_cpu(images: Path) -> None:
    from dino_train.data.frames import open_frames

    frames = open_frames([images])
    short = dataclasses.replace(recipe(), crops=CropsConfig(64, 32, local_crops_number=3))
    groups = []
    for finish, device in ((True, "cpu"), (False, "cuda")):
        loader = crop_loader(frames, short, EpochSampler(frames, short), 2, finish=finish)
        groups.append([crops.float().cpu() for crops in finish_crops(next(iter(loader)), torch.device(device))])
    for cpu, gpu in zip(*groups, strict=True):
        assert (cpu - gpu).abs().mean() < 1.5


@pytest.mark.parametrize(
    "machine",
    [
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"precision": "bf16", "compile": True},
        {"precision": "bf16", "checkpoint_activations": True, "accumulate": 2},
    ],
    ids=str,
)
def test_every_precision_learns_about_the_same(images: Path, tmp_path: Path, machine: dict[str, object]) -> None:
    on_cpu = tmp_path / "cpu"
    settings = MachineConfig(device="cpu", precision="fp32", workers=2)
    trainer.train(recipe(), DataConfig([str(images)]), on_cpu, settings, EvaluationConfig(every=0))
    expected = [json.loads(line)["loss"] for line in (on_cpu / LOG_NAME).read_text().splitlines()]
    np.testing.assert_allclose(losses(images, tmp_path / "gpu", **machine), expected, rtol=0.1)


def test_a_run_goes_on_on_the_gpu(images: Path, tmp_path: Path) -> None:
    losses(images, tmp_path / "run", precision="fp16")
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert checkpoint.scaler["scale"] > 0
    assert checkpoint.step == 20
