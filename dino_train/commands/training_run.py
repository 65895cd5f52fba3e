"""What `pretrain` and `distill` share: the options of a run, and starting, resuming or submitting it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.errors import UserError
from dino_train.commands.data_options import add_data_arguments, data_config
from dino_train.config import EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.machine.rank import is_main
from dino_train.recipes.files import add_recipe_arguments, find_recipe, read_settings, recipe_from_options

WITH_RESUME = ("--resume", "--machine", "--slurm", "--comparison", "--help")
"""What may be given together with --resume, and their settings."""


def add_run_arguments(parser: ArgumentParser, command: str, out: Path) -> None:
    """Add the options of a run: its data, folder, machine, evaluation and recipe."""
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=out, help="folder of the run, a new one for each")
    parser.add_argument(
        "--resume",
        type=Path | None,
        help="go on with the run in this folder after it was stopped, with its recipe and data",
    )
    parser.add_argument(
        "--slurm",
        type=SlurmConfig | None,
        help="submit to a SLURM cluster instead of training here: --slurm.partition NAME; --slurm.help lists the rest",
    )
    parser.add_argument(
        "--config",
        action="config",
        help="name of a shipped recipe, such as robot_bag for the log of one robot, or path of a YAML file (default: "
        "settings for ViT-S/16 on ImageNet)",
    )
    parser.add_argument(
        "--machine", type=MachineConfig, default=MachineConfig(), help="device, precision, memory and workers"
    )
    parser.add_argument(
        "--evaluation", type=EvaluationConfig, default=EvaluationConfig(), help="what is evaluated, and how often"
    )
    add_recipe_arguments(parser, command)


def arrange(arguments: list[str]) -> list[str]:
    """Put the recipe of a command line first, by its path: other options win over it, wherever they stand.

    Raises UserError for a recipe that is missing or cannot be read, and for options that --resume has no use for.
    """
    command, *words = arguments
    recipes, others = [], []
    waiting = iter(words)
    for word in waiting:
        name, given, value = word.partition("=")
        if name == "--config":
            path = find_recipe(value if given else next(waiting, ""), command)
            read_settings(path)
            recipes += [name, str(path)]
            word = "--config={}"  # nothing more, but it ends an option of several values as it did
        elif (section := value or word).endswith(".yaml") and Path(section).is_file():  # as --optimizer takes it, too
            read_settings(Path(section))
        others.append(word)
    names = [word.partition("=")[0] for word in others if word.startswith("--")]
    refused = [name for name in names if name.partition(".")[0] not in WITH_RESUME]
    if "--resume" in names and refused:
        raise UserError(
            f"--resume goes on with the recipe, data and folder of the run: leave {', '.join(dict.fromkeys(refused))} "
            "out, or start a new run from its weights with --init RUN/last.pt."
        )
    return [command, *recipes, *others]


def run_training(options: Namespace, command: str) -> Path | None:
    """Train, resume or submit a run; returns its last checkpoint in the main process, otherwise None."""
    from dino_train.models.checkpoint import load_checkpoint
    from dino_train.runs.log import LAST_NAME
    from dino_train.training import trainer
    from dino_train.training.checks import check_no_run, check_settings
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
        check_settings(job.recipe, job.machine, job.evaluation)
        print(f"Submitted job {submit(job, slurm_executor(options.slurm, out))}; its output is in {out}/slurm.")
        return None
    try:
        checkpoint = (
            trainer.resume_run(out, job.machine)
            if options.resume
            else trainer.train(job.recipe, job.data, out, job.machine, job.evaluation)
        )
    except KeyboardInterrupt:
        if is_main():
            print(how_to_go_on(command, out), file=sys.stderr)
        raise
    return checkpoint if is_main() else None


def how_to_go_on(command: str, out: Path) -> str:
    """What to do with a run that was stopped."""
    from dino_train.runs.log import LAST_NAME

    if (out / LAST_NAME).is_file():
        return f"Stopped. Go on with: dino-train {command} --resume {shlex.quote(str(out))}"
    return "Stopped before the first checkpoint: start it again with the same command."
