"""Runs on a SLURM cluster, submitted through submitit and resubmitted when their time is up or they are preempted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.recipes import Recipe
from dino_train.runs.log import LAST_NAME


@dataclass(frozen=True)
class TrainingJob:
    """What every process of a job does; a job that starts again resumes the run in its folder."""

    recipe: Recipe
    data: DataConfig
    out: Path
    machine: MachineConfig
    evaluation: EvaluationConfig

    def __call__(self) -> Path:
        """Train; returns the path of the last checkpoint."""
        import submitit

        from dino_train.training import trainer

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if (self.out / LAST_NAME).is_file():
            return trainer.resume_run(self.out, self.machine)
        return trainer.train(self.recipe, self.data, self.out, self.machine, self.evaluation)

    def checkpoint(self) -> Any:
        """Resubmit the job: submitit calls this when SLURM is about to stop it."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def slurm_executor(config: SlurmConfig, out: Path) -> Any:
    """Build submitit's executor; logs go to `out/slurm`.

    Raises UserError if submitit or SLURM is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--slurm needs the package submitit: run `pip install submitit`.") from error
    try:
        executor = submitit.SlurmExecutor(folder=out / "slurm", max_num_timeout=config.requeues)
    except RuntimeError as error:
        raise UserError("--slurm does not find `srun`: submit from a login node of the cluster.") from error
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


def submit(job: TrainingJob, executor: Any) -> str:
    """Submit a job; returns its number. Raises UserError if SLURM rejects it."""
    job.out.mkdir(parents=True, exist_ok=True)
    try:
        return str(executor.submit(job).job_id)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"SLURM rejected the job ({reason}): check --slurm.partition against `sinfo`.") from error
