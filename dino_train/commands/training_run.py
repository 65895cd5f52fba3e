"""What `pretrain` and `distill` share: the options of a run, and starting, resuming or submitting it."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.errors import UserError
from dino_train.commands.data_options import add_data_arguments, data_config
from dino_train.config import EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.recipes.files import add_recipe_arguments, recipe_from_options


def add_run_arguments(parser: ArgumentParser, command: str, out: Path) -> None:
    """Add the options of a run: its data, folder, machine, evaluation and recipe."""
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=out, help="folder of the run")
    parser.add_argument("--resume", type=Path | None, help="resume the run in this folder, with its recipe and data")
    parser.add_argument("--slurm", type=SlurmConfig | None, help="submit to a SLURM cluster instead of training here")
    parser.add_argument("--config", action="config", help="name of a shipped recipe, or path of a YAML file")
    parser.add_argument(
        "--machine", type=MachineConfig, default=MachineConfig(), help="device, precision, memory and workers"
    )
    parser.add_argument(
        "--evaluation", type=EvaluationConfig, default=EvaluationConfig(), help="what is evaluated, and how often"
    )
    add_recipe_arguments(parser, command)


def run_training(options: Namespace, command: str) -> Path | None:
    """Train, resume or submit a run; returns its last checkpoint in the main process, otherwise None."""
    from dino_train.machine.distributed import is_main
    from dino_train.models.checkpoint import load_checkpoint
    from dino_train.runs.log import LAST_NAME
    from dino_train.training import trainer
    from dino_train.training.checks import check_no_run
    from dino_train.training.slurm import TrainingJob, slurm_executor, submit

    out = options.resume or options.out
    if options.resume:
        if options.data:
            raise UserError(f"--resume takes the data from the checkpoint: leave {' '.join(options.data)} out.")
        run = load_checkpoint(out / LAST_NAME)
        machine = run.machine if options.machine == MachineConfig() else options.machine
        job = TrainingJob(run.recipe, run.data, out, machine, run.evaluation)
    else:
        check_no_run(out)
        recipe = recipe_from_options(vars(options), command)
        job = TrainingJob(recipe, data_config(options), out, options.machine, options.evaluation)
    if options.slurm:
        print(f"Submitted job {submit(job, slurm_executor(options.slurm, out))}; its output is in {out}/slurm.")
        return None
    checkpoint = (
        trainer.resume_run(out, job.machine)
        if options.resume
        else trainer.train(job.recipe, job.data, out, job.machine, job.evaluation)
    )
    return checkpoint if is_main() else None
