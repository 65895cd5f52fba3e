"""What the commands that train have in common: a run's options, and starting it, going on with it, or submitting it."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.errors import UserError
from dino_train.commands.data_options import add_data_arguments, data_config
from dino_train.config import EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.recipes.files import add_recipe_arguments, recipe_from_options


def add_run_arguments(parser: ArgumentParser, command: str, out: Path) -> None:
    """Options of a run: its data, its folder, the machine, what is beside it, and the recipe."""
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=out, help="folder of the run")
    parser.add_argument("--resume", type=Path | None, help="go on with the run in this folder, as it was started")
    parser.add_argument("--slurm", type=SlurmConfig | None, help="submit to SLURM instead of running here")
    parser.add_argument("--config", action="config", help="a recipe that ships, by name, or the path of a YAML file")
    parser.add_argument("--machine", type=MachineConfig, default=MachineConfig(), help="what fits the machine")
    parser.add_argument("--evaluation", type=EvaluationConfig, default=EvaluationConfig(), help="what runs beside it")
    add_recipe_arguments(parser, command)


def train(options: Namespace, command: str) -> Path | None:
    """Train as the options of a run say; returns the last checkpoint in the main process, None elsewhere."""
    from dino_train.machine.distributed import is_main
    from dino_train.models.checkpoint import load_checkpoint
    from dino_train.runs.log import LAST_NAME
    from dino_train.training import trainer  # torch takes seconds to import: `--help` does without it
    from dino_train.training.checks import check_no_run
    from dino_train.training.slurm import PretrainJob, slurm_executor, submit

    out = options.resume or options.out
    if options.resume:
        if options.data:
            raise UserError("--resume takes the data from the checkpoint: leave the paths out.")
        run = load_checkpoint(out / LAST_NAME)
        machine = run.machine if options.machine == MachineConfig() else options.machine
        job = PretrainJob(run.recipe, run.data, out, machine, run.evaluation)
    else:
        check_no_run(out)
        recipe = recipe_from_options(vars(options), command)
        job = PretrainJob(recipe, data_config(options), out, options.machine, options.evaluation)
    if options.slurm:
        print(f"Submitted as job {submit(job, slurm_executor(options.slurm, out))}; its output is in {out}/slurm.")
        return None
    checkpoint = (
        trainer.resume_run(out, job.machine)
        if options.resume
        else trainer.pretrain(job.recipe, job.data, out, job.machine, job.evaluation)
    )
    return checkpoint if is_main() else None
