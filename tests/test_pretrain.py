"""Whole runs of `dino-train pretrain` on small rendered data: learning, resuming, and refusing what is wrong."""

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

from shapes import KINDS, render_shape, write_shapes
from tiny_recipe import RECIPE

from dino_ros.errors import UserError
from dino_train.cli import run
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.multicrop import normalize
from dino_train.evaluation.classification.knn import knn_accuracies
from dino_train.models.backbones import mean_and_std
from dino_train.models.checkpoint import Checkpoint, checkpoint_backbone, load_checkpoint
from dino_train.objectives.dino import Dino
from dino_train.objectives.initialize import initialize
from dino_train.recipes import DinoRecipe, OptimizerConfig
from dino_train.runs.log import LAST_NAME, LOG_NAME
from dino_train.training import trainer


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), 640)


QUIET = EvaluationConfig(every=0)
"""No evaluator."""


def cpu(**changes: object) -> MachineConfig:
    return dataclasses.replace(MachineConfig(device="cpu", workers=0), **changes)  # type: ignore[arg-type]


def pretrain(recipe: DinoRecipe, images: Path, out: Path, **machine: object) -> Checkpoint:
    last = trainer.train(recipe, DataConfig([str(images)]), out, cpu(**machine), QUIET)
    return load_checkpoint(last)


def read_log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]


def shapes_accuracy(vit: torch.nn.Module) -> float:
    """k-NN on fresh images, whose kind is the label."""
    rng = np.random.default_rng(99)
    kinds = torch.arange(400) % KINDS
    rgb = np.stack([render_shape(int(kind), rng, size=32) for kind in kinds])
    inputs = normalize(torch.from_numpy(rgb).permute(0, 3, 1, 2), *mean_and_std(vit))
    with torch.inference_mode():
        embeddings = vit.eval()(inputs)
    return knn_accuracies(embeddings[:200], kinds[:200], embeddings[200:], kinds[200:], [20])[20]


def test_a_run_learns(images: Path, tmp_path: Path) -> None:
    checkpoint = pretrain(RECIPE, images, tmp_path, workers=1)
    log = read_log(tmp_path)
    losses = [line["loss"] for line in log]
    top = math.log(RECIPE.dino.out_dim)
    assert np.mean(losses[-3:]) < 0.8 * max(losses), "the loss falls"
    entropy = log[-1]["teacher_entropy"]
    assert 0.05 * top < entropy < 0.95 * top, "the teacher's output is neither constant nor uniform"
    accuracy = shapes_accuracy(checkpoint_backbone(checkpoint, "teacher"))
    assert accuracy > 0.6, f"k-NN {accuracy}, chance {1 / KINDS}; embeddings that collapse fall to chance"
    assert log[0]["lr"] < log[3]["lr"]
    assert checkpoint.step == log[-1]["step"] == 120


STOCHASTIC = dataclasses.replace(
    RECIPE,
    backbone=dataclasses.replace(RECIPE.backbone, drop_path_rate=0.2),  # so that the networks draw random numbers too
    epochs=2,
    seed=3,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from dino_train.training import trainer
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.recipes.files import recipe_from_dict
import json

recipe, images, out, stop_after = recipe_from_dict(json.loads(sys.argv[1])), *sys.argv[2:4], int(sys.argv[4])
save, saved = trainer.save_checkpoint, []

def save_and_die(checkpoint, path):
    save(checkpoint, path)
    saved.append(path)
    if len(saved) == stop_after:
        os.kill(os.getpid(), signal.SIGKILL)

trainer.SECONDS_BETWEEN_CHECKPOINTS, trainer.save_checkpoint = 0.0, save_and_die
machine = MachineConfig(device="cpu", workers=2)
trainer.train(recipe, DataConfig([images]), Path(out), machine, EvaluationConfig(every=0))
"""


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without interruption."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(STOCHASTIC, images, out)
    return out


@pytest.mark.parametrize("stop_after", [7, 13])
def test_a_killed_run_goes_on_exactly(images: Path, whole: Path, tmp_path: Path, stop_after: int) -> None:
    """Killed without warning, with workers; every later loss equals that of the uninterrupted run, bit for bit."""
    arguments = [json.dumps(dataclasses.asdict(STOCHASTIC)), str(images), str(tmp_path / "cut"), str(stop_after)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "cut" / LAST_NAME).step == stop_after - 1, "the newest that a step has proven"
    resumed = load_checkpoint(trainer.resume_run(tmp_path / "cut", cpu(workers=1)))

    expected = load_checkpoint(whole / LAST_NAME)
    assert resumed.step == expected.step
    for name, tensor in expected.objective.items():
        assert torch.equal(tensor, resumed.objective[name]), name
    for name in ("loss", "gradient_norm", "lr", "momentum_teacher"):
        ours, theirs = ([line[name] for line in read_log(run)] for run in (tmp_path / "cut", whole))
        assert ours == theirs


def test_parts_of_a_batch_add_up_to_the_whole(images: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1)
    whole = pretrain(recipe, images, tmp_path / "whole", precision="fp32")
    parts = pretrain(recipe, images, tmp_path / "parts", precision="fp32", accumulate=4)
    for name in ("loss", "gradient_norm", "teacher_entropy", "marginal_entropy", "center_norm"):
        assert read_log(tmp_path / "parts")[0][name] == pytest.approx(read_log(tmp_path / "whole")[0][name], rel=1e-3)
    torch.testing.assert_close(parts.objective["center"], whole.objective["center"], rtol=1e-2, atol=1e-4)


def test_activations_computed_again_change_nothing(images: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(STOCHASTIC, epochs=1)
    kept = pretrain(recipe, images, tmp_path / "kept", precision="fp32")
    again = pretrain(recipe, images, tmp_path / "again", precision="fp32", checkpoint_activations=True)
    for name, tensor in kept.objective.items():
        torch.testing.assert_close(tensor, again.objective[name], rtol=1e-4, atol=1e-5, msg=name)


def test_bf16_learns_about_the_same(images: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=2)
    losses = []
    for precision in ("fp32", "bf16"):
        pretrain(recipe, images, tmp_path / precision, precision=precision)
        losses.append([line["loss"] for line in read_log(tmp_path / precision)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_step(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    """The last good checkpoint stays; what the loss was computed from is kept apart, and nothing resumes from it."""
    forward = Dino.forward
    calls = []

    def poisoned(self: Dino, groups: list[torch.Tensor], temperature: float) -> object:
        loss, outputs = forward(self, groups, temperature)
        calls.append({name: p.detach().clone() for name, p in self.state_dict().items()})
        if len(calls) == 5 and poison == "gradient":
            loss.register_hook(lambda gradient: gradient * math.inf)
        return (loss * math.nan if len(calls) == 5 and poison == "loss" else loss), outputs

    monkeypatch.setattr(Dino, "forward", poisoned)
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    sentence = r"step 4 .*(nan|inf).*non_finite.pt.*--init .*last.pt"
    with pytest.raises(UserError, match=sentence) as caught:
        pretrain(RECIPE, images, tmp_path)
    assert "\n" not in str(caught.value)
    kept = load_checkpoint(tmp_path / LAST_NAME)
    assert kept.step == 3, "the newest whose loss was finite"
    assert all(torch.equal(tensor, calls[3][name]) for name, tensor in kept.objective.items())
    facts = torch.load(tmp_path / "non_finite.pt", weights_only=True)
    assert facts["step"] == 4
    assert facts["crops"][0].shape == (64, 2, 3, 32, 32)
    assert len(facts["images"]) == 64
    assert any(not torch.isfinite(norm) for norm in facts["gradient_norms"].values())
    assert all(torch.equal(tensor, calls[4][name]) for name, tensor in facts["weights"].items())
    with pytest.raises(UserError, match=r"non_finite\.pt"):
        load_checkpoint(tmp_path / "non_finite.pt")
    with pytest.raises(UserError, match=r"non_finite\.pt"):
        initialize(Dino(RECIPE), tmp_path / "non_finite.pt")
    assert {path.name for path in tmp_path.glob("*.pt")} == {LAST_NAME, "non_finite.pt"}


@pytest.mark.parametrize("warmup_epochs", [1, 0])
def test_the_advice_after_a_loss_that_is_not_finite_works(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warmup_epochs: int
) -> None:
    """A run diverges, and the command that the error gives goes on; without warm-up there is no good checkpoint yet."""
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    recipe = tmp_path / "recipe.yaml"
    short = dataclasses.replace(RECIPE, batch_size=16, epochs=0.25)
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(short)))))
    command = ["pretrain", str(images), "--config", str(recipe), "--machine.device", "cpu", "--machine.workers", "0"]
    command += ["--evaluation.every", "0", "--optimizer.warmup_epochs", str(warmup_epochs)]
    with pytest.raises(UserError, match=r"is (nan|inf)") as caught:
        run([*command, "--optimizer.lr", "1e30", "--out", str(tmp_path / "diverged")])
    assert {"--out", "--optimizer.lr"} <= {*re.findall(r"--[\w.]+", str(caught.value))}
    advised = re.search(r"(--init) (\S+)", str(caught.value))
    assert bool(advised) == bool(warmup_epochs)
    run([*command, *(advised.groups() if advised else ()), "--optimizer.lr", "4e-3", "--out", str(tmp_path / "again")])
    assert load_checkpoint(tmp_path / "again" / LAST_NAME).step == 10
    assert all(math.isfinite(line["loss"]) for line in read_log(tmp_path / "again"))


def test_a_run_tells_all_about_itself(images: Path, tmp_path: Path) -> None:
    """Recipe, environment, log, TensorBoard and evaluations are in the folder of the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = dataclasses.replace(
        RECIPE, epochs=2, dino=dataclasses.replace(RECIPE.dino, out_dim="auto", momentum_teacher="auto")
    )
    out = tmp_path / "run"
    data = DataConfig([str(images)])
    trainer.train(recipe, data, out, cpu(), EvaluationConfig(every=1))
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert (written["dino"]["out_dim"], written["dino"]["momentum_teacher"]) == (1024, 0.99)
    assert json.loads((out / "environment.json").read_text())["torch"] == torch.__version__
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in read_log(out)], rel=1e-6
    )
    assert {path.name for path in out.glob("*.pt")} == {"epoch_0000.pt", "epoch_0001.pt", "epoch_0002.pt", "last.pt"}
    evaluated = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in evaluated] == [0, 1, 2]
    assert (out / "report.html").is_file()
    with pytest.raises(UserError, match="--resume"):
        trainer.train(recipe, data, out, cpu(), QUIET)


def test_a_run_starts_from_another_ones_weights(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1)
    first = pretrain(recipe, images, tmp_path / "first")
    assert "This run has 10 steps, too few" in caplog.text, "from random weights"
    caplog.clear()
    still = dataclasses.replace(
        recipe, init=str(tmp_path / "first" / LAST_NAME), optimizer=OptimizerConfig(lr=0.0, min_lr=0.0, warmup_epochs=0)
    )
    second = pretrain(still, images, tmp_path / "second")
    assert "too few" not in caplog.text
    for name in ("backbone.blocks.0.attn.qkv.weight", "head.mlp.0.weight"):
        torch.testing.assert_close(
            second.objective[f"student.{name}"], first.objective[f"student.{name}"], rtol=0, atol=1e-6
        )


def test_a_run_goes_on_with_the_images_it_was_started_with(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(70):
        (folder / f"{number:04d}.png").write_bytes((images / f"{number:04d}.png").read_bytes())
    recipe = dataclasses.replace(RECIPE, epochs=1)
    before = pretrain(recipe, folder, tmp_path / "run")
    (folder / "0000.png").unlink()
    resumed = load_checkpoint(trainer.resume_run(tmp_path / "run"))
    assert (resumed.images, resumed.fingerprint) == (70, before.fingerprint)
    (tmp_path / "run" / "images.json").unlink()
    with pytest.raises(UserError, match=r"69 images, is not that with which .*run was started"):
        trainer.resume_run(tmp_path / "run")


SHALLOW = ["--backbone.depth", "1", "--dino.out_dim", "64"]


def test_bad_settings_get_one_sentence(images: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--machine.device", "cpu"]
    for arguments, named in (
        ([str(images), "--config", "nothing"], "'nothing'.*robot_bag"),
        ([str(images), "--batch_size", "1000"], "640 images.*batch_size"),
        ([str(images), "--crops.global_crops_size", "100"], "crops.global_crops_size is 100, .* 16: give --crops.* 96"),
        ([str(images), "--backbone.name", "vit_nothing"], "'vit_nothing'"),
        ([str(images), "--backbone.name", "resnet18"], "'resnet18'"),
        ([str(images), "--backbone.name", "vit_tiny_r_s16_p8_224"], "'vit_tiny_r_s16_p8_224'"),
        ([str(images), "--backbone.name", "vit_small_patch16_18x2_224", *SHALLOW], "one attention each"),
        ([str(images), "--backbone.embed_dim", "100"], "backbone"),
        (["/nowhere"], "/nowhere"),
        ([str(images), "--machine.accumulate", "3"], "batch_size is 64, .* 3 parts"),
        ([str(images), "--machine.precision", "fp16"], "machine.precision is fp16"),
        ([str(images), "--init", "/nowhere.pth"], "/nowhere.pth"),
        ([str(images), "--machine.workers", "-1"], "machine.workers is -1: it must be at least 0"),
        ([str(images), "--evaluation.every", "-1"], "evaluation.every is -1.0: it must be at least 0"),
        ([str(images), "--epochs", ".inf"], "epochs is inf: it must be above 0"),
    ):
        with pytest.raises(UserError, match=named) as caught:
            run(["pretrain", *arguments, *out])
        assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK rubbish")
    with pytest.raises(UserError, match=r"checkpoint\.pt"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt"):
        load_checkpoint(tmp_path / "other.pt")
