"""Several processes train as one would: the same losses, from a terminal through torchrun and from a SLURM job."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch")
submitit = pytest.importorskip("submitit")

from shapes import write_shapes
from torch.nn import functional

from dino_ros.errors import UserError
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.models.checkpoint import load_checkpoint
from dino_train.objectives.methods import build_objective
from dino_train.objectives.swav import Assignments
from dino_train.recipes import (
    BackboneConfig,
    CropsConfig,
    DinoConfig,
    DinoRecipe,
    MocoConfig,
    MocoRecipe,
    OptimizerConfig,
    PretrainRecipe,
    SwavConfig,
    SwavRecipe,
)
from dino_train.runs.log import LAST_NAME, LOG_NAME
from dino_train.training import trainer
from dino_train.training.slurm import TrainingJob, slurm_executor, submit

RECIPE = DinoRecipe(
    backbone=BackboneConfig(
        "vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.0
    ),
    crops=CropsConfig(32, 16, local_crops_number=2),
    dino=DinoConfig(out_dim=128, hidden_dim=64, bottleneck_dim=32, warmup_teacher_temp_epochs=1),
    optimizer=OptimizerConfig(lr=4e-3, warmup_epochs=1),
    epochs=5,
    batch_size=16,
)
SWAV = SwavRecipe(RECIPE.backbone, RECIPE.crops, swav=SwavConfig(prototypes=24, hidden_dim=32, out_dim=16, queue=60))
CPU = MachineConfig(device="cpu", precision="fp32", workers=1)
QUIET = EvaluationConfig(every=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), 70)


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    trainer.train(RECIPE, DataConfig([str(images)]), out, CPU, QUIET)
    return out


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Equal up to the order of float32 sums, over the 20 steps of the run."""
    for our, their in zip(lines(ours), lines(theirs), strict=True):
        for name in ("step", "loss", "teacher_entropy", "kl", "marginal_entropy", "center_norm", "lr"):
            assert our[name] == pytest.approx(their[name], rel=2e-3), (our["step"], name)
    ours_center, theirs_center = (load_checkpoint(run / LAST_NAME).objective["center"] for run in (ours, theirs))
    torch.testing.assert_close(ours_center, theirs_center, rtol=0.02, atol=2e-3)


def two_processes(recipe: PretrainRecipe, images: Path, folder: Path, accumulate: int = 1) -> str:
    """Run a recipe through torchrun into `folder/two`; returns what is printed."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(recipe)))))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dino_train"),
        *("pretrain", str(images), "--config", str(folder / "recipe.yaml"), "--out", str(folder / "two")),
        *("--machine.device", "cpu", "--machine.precision", "fp32", "--machine.workers", "1"),
        *("--machine.accumulate", str(accumulate), "--evaluation.every", "0"),
    ]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_give_the_losses_of_one(images: Path, alone: Path, tmp_path: Path, accumulate: int) -> None:
    printed = two_processes(RECIPE, images, tmp_path, accumulate)
    assert_same_run(tmp_path / "two", alone)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    assert printed.count("dino-train export") == 1, "only the main process prints"


@pytest.mark.parametrize(
    "recipe",
    [
        MocoRecipe(
            RECIPE.backbone,
            CropsConfig(32, 16, local_crops_number=0),
            RECIPE.optimizer,
            epochs=3,
            batch_size=16,
            moco=MocoConfig(queue=40, hidden_dim=64, out_dim=32, momentum=0.95),
        ),
        dataclasses.replace(RECIPE, epochs=3, dino=dataclasses.replace(RECIPE.dino, centering="sinkhorn")),
    ],
    ids=["moco", "sinkhorn"],
)
def test_what_is_over_the_whole_batch_is_so_over_processes(
    images: Path, tmp_path: Path, recipe: PretrainRecipe
) -> None:
    """MoCo's queue of keys, in its order, and the equal shares of Sinkhorn-Knopp."""
    trainer.train(recipe, DataConfig([str(images)]), tmp_path / "one", CPU, QUIET)
    two_processes(recipe, images, tmp_path)
    for our, their in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        for name in ("step", "loss", "gradient_norm", "lr"):
            assert our[name] == pytest.approx(their[name], rel=2e-3), (our["step"], name)
    ours, theirs = (load_checkpoint(tmp_path / run / LAST_NAME).objective for run in ("two", "one"))
    if isinstance(recipe, MocoRecipe):
        assert int(ours["pointer"]) == int(theirs["pointer"]) == 12 * 16 % 40
        torch.testing.assert_close(ours["queue"], theirs["queue"], rtol=0, atol=5e-3)
        assert (ours["queue"] - theirs["queue"].roll(8, 0)).abs().max() > 0.05, "another order is another queue"


def assign_with_queue(rank: int, count: int, folder: str) -> None:
    """The part of one of `count` processes in six batches: five fill the queue, the last is assigned."""
    if count > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    torch.manual_seed(0)
    batches = functional.normalize(torch.randn(6, 16, 2, 16), dim=-1)[:, rank * 16 // count : (rank + 1) * 16 // count]
    objective = build_objective(SWAV, new=True)
    for batch in batches[:5]:
        objective.after_step(Assignments(torch.zeros(len(batch), 2, 32), batch, torch.zeros(len(batch), 2, 24)), {})
    scores = objective.student.prototypes(batches[5, :, 1])
    codes = [objective.assign(scores, 1, uses_queue) for uses_queue in (True, False)]
    torch.save((*codes, objective.queue, objective.pointer), f"{folder}/{rank}_of_{count}.pt")


def test_the_queue_of_swav_is_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process assigns its images together with a part of the queue: the codes are those of one process."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(assign_with_queue, (2, str(tmp_path)), nprocs=2)
    assign_with_queue(0, 1, str(tmp_path))
    parts = [torch.load(tmp_path / f"{rank}_of_2.pt") for rank in (0, 1)]
    with_queue, without, queue, pointer = torch.load(tmp_path / "0_of_1.pt")
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), with_queue)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), without)
    assert (with_queue - without).abs().max() > 0.01
    assert int(pointer) == 5 * 16 % 60
    for _, _, part_queue, part_pointer in parts:
        assert part_pointer == pointer
        torch.testing.assert_close(part_queue, queue)


def test_a_job_that_was_stopped_goes_on(
    images: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is interrupted; the same job, requeued as SLURM does, ends as if nothing had happened."""

    class Stopped(Exception):
        pass

    def save_and_stop(checkpoint: object, path: Path) -> None:
        save(checkpoint, path)
        if checkpoint.step == 7:  # type: ignore[attr-defined]
            raise Stopped

    save = trainer.save_checkpoint
    job = TrainingJob(RECIPE, DataConfig([str(images)]), tmp_path / "run", CPU, QUIET)
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(trainer, "save_checkpoint", save_and_stop)
    with pytest.raises(Stopped):
        trainer.train(job.recipe, job.data, job.out, job.machine, job.evaluation)

    again = job.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    executor = submitit.LocalExecutor(folder=tmp_path / "submitit")
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    results = executor.submit(again.function).results()
    assert results == [tmp_path / "run" / LAST_NAME] * 2
    assert_same_run(tmp_path / "run", alone)


def test_what_slurm_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("srun", ""), ("sbatch", "Submitted batch job 4711")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = TrainingJob(RECIPE, DataConfig(["bag"]), tmp_path / "run", CPU, QUIET)
    with pytest.raises(UserError, match="srun"):
        slurm_executor(SlurmConfig("gpu"), job.out)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    executor = slurm_executor(SlurmConfig("gpu", nodes=2, gpus=4, hours=1.5, requeues=3), job.out)
    assert submit(job, executor) == "4711"
    script = job.out / "slurm" / "4711_submission.sh"
    asked = {line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=90", "partition=gpu", "job-name=run"} <= asked
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"invalid partition|slurm\.partition"):
        submit(job, executor)
