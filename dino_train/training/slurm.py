"""Runs on a SLURM cluster: submitted through submitit, and submitted again when time is up or the job is preempted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.recipes import Recipe
from dino_train.runs.log import LAST_NAME


@dataclass(frozen=True)
class PretrainJob:
    """What every process of a job does. A job that starts again goes on with the run in its folder."""

    recipe: Recipe
    data: DataConfig
    out: Path
    machine: MachineConfig
    evaluation: EvaluationConfig

    def __call__(self) -> Path:
        """Train; returns the last checkpoint."""
        import submitit

        from dino_train.training import trainer

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if (self.out / LAST_NAME).is_file():
            return trainer.resume_run(self.out, self.machine)
        return trainer.pretrain(self.recipe, self.data, self.out, self.machine, self.evaluation)

    def checkpoint(self) -> Any:
        """Submit the same again: submitit calls this when SLURM is about to stop the job."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def slurm_executor(config: SlurmConfig, out: Path) -> Any:
    """Submitit's executor for that many nodes and GPUs; logs go to `out/slurm`.

    Raises UserError where submitit or SLURM is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--slurm needs the package submitit: run `pip install 'dino_ros[slurm]'`.") from error
    try:
        executor = submitit.SlurmExecutor(folder=out / "slurm", max_num_timeout=config.requeues)
    except RuntimeError as error:
        raise UserError("--slurm finds no `srun` here: submit from a login node of the cluster.") from error
    executor.update_parameters(
        job_name=out.name,
        partition=config.partition,
        nodes=config.nodes,
        ntasks_per_node=config.gpus,
        gpus_per_node=config.gpus,
        cpus_per_task=config.cpus_per_gpu,
        time=round(config.hours * 60),
        signal_delay_s=180,  # enough for a checkpoint, which is written every two minutes
    )
    return executor


def submit(job: PretrainJob, executor: Any) -> str:
    """Submit a job and return its number. Raises UserError where SLURM does not take it."""
    job.out.mkdir(parents=True, exist_ok=True)
    try:
        return str(executor.submit(job).job_id)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"SLURM did not take the job ({reason}): check slurm.partition and `sinfo`.") from error
