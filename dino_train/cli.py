"""The command `dino-train`."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from dino_ros.errors import UserError
from dino_train.config import (
    ComparisonConfig,
    DataConfig,
    DistilRecipe,
    EvaluationConfig,
    MachineConfig,
    Recipe,
    RunRecipe,
    SlurmConfig,
    absolute,
    find_recipe,
    parse_size,
)


def main() -> None:
    """Run `dino-train`; bad input prints one sentence and exits with code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("dino_train").setLevel(logging.INFO)
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"dino-train: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: list[str]) -> None:
    """Parse the command line and do what it says."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the recipe's fields explain themselves in --help
    parser = ArgumentParser(
        prog="dino-train", description="Pretrain, evaluate and export DINO students from pictures without labels."
    )
    commands = parser.add_subcommands(required=True, dest="command")
    commands.add_subcommand("data", data_parser(), help="show what training would see")
    commands.add_subcommand("pretrain", pretrain_parser(), help="learn from pictures, without labels")
    commands.add_subcommand("distill", distill_parser(), help="teach a small student what a large one sees")
    commands.add_subcommand("export", export_parser(), help="write a student file for dino_ros")
    commands.add_subcommand("evaluate", evaluate_parser(), help="score a student's attention masks")
    commands.add_subcommand("report", report_parser(), help="write the report of a run again")
    # A recipe that ships may be given by its name: jsonargparse reads paths only.
    arguments = [
        str(find_recipe(value, arguments[0])) if previous == "--config" else value
        for previous, value in zip(["", *arguments], arguments, strict=False)
    ]
    options = parser.instantiate(parser.parse_args(arguments))
    run_command = {
        "data": data,
        "pretrain": pretrain,
        "distill": distill,
        "export": export,
        "evaluate": evaluate,
        "report": report,
    }
    run_command[options.command](options[options.command])


def add_data_arguments(parser: ArgumentParser) -> None:
    """Options that say where pictures come from."""
    parser.add_argument("data", nargs="*", help="bags, folders of pictures, tar shards, videos; several are mixed")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument(
        "--weight", type=dict[str, float], default={}, help="draw a path or topic more often: {/front: 2, old_bag: 0.5}"
    )
    parser.add_argument(
        "--distance",
        type=float,
        default=DataConfig.distance,
        help="leave out frames of a log nearer than this to the one kept before, in grey levels; 0 keeps all",
    )


def data_config(options: Namespace) -> DataConfig:
    """What those options said."""
    return DataConfig(options.data, options.topic, options.weight, options.distance)


def data_parser() -> ArgumentParser:
    """Options of `dino-train data`."""
    parser = ArgumentParser(description="Show what training would see: a table, and a sheet of pictures.")
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("contact_sheet.png"), help="the sheet, a PNG file")
    return parser


def data(options: Namespace) -> None:
    """`dino-train data`."""
    from dino_train.data.selection import SelectionParameters
    from dino_train.data.survey import survey

    survey(options.data, options.topic, options.weight, SelectionParameters(options.distance), options.out)
    print(f"Look at {options.out}.")


def pretrain_parser() -> ArgumentParser:
    """Options of `dino-train pretrain`."""
    parser = ArgumentParser(
        description="Pretrain a ViT by self-distillation (DINO). Ctrl-C loses two minutes at most: --resume goes on. "
        "On several GPUs: torchrun --nproc-per-node 8 -m dino_train pretrain ..."
    )
    add_run_arguments(parser, Recipe, Path("runs/pretrain"))
    return parser


def add_run_arguments(parser: ArgumentParser, recipe: type[RunRecipe], out: Path) -> None:
    """Options of a run: its data, its folder, the machine, what is beside it, and the recipe."""
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=out, help="folder of the run")
    parser.add_argument("--resume", type=Path | None, help="go on with the run in this folder, as it was started")
    parser.add_argument("--slurm", type=SlurmConfig | None, help="submit to SLURM instead of running here")
    parser.add_argument("--config", action="config", help="a recipe that ships, by name, or the path of a YAML file")
    parser.add_argument("--machine", type=MachineConfig, default=MachineConfig(), help="what fits the machine")
    parser.add_argument("--evaluation", type=EvaluationConfig, default=EvaluationConfig(), help="what runs beside it")
    parser.add_class_arguments(recipe)


def pretrain(options: Namespace) -> None:
    """`dino-train pretrain`."""
    if checkpoint := train(options, Recipe):
        print(
            f"{checkpoint}: go on with `dino-train export {checkpoint} --size HxW`; "
            f"see {checkpoint.with_name('report.html')}."
        )


def train(options: Namespace, kind: type[RunRecipe]) -> Path | None:
    """Train as the options of a run say; returns the last checkpoint in the main process, None elsewhere."""
    from dino_train import trainer  # torch takes seconds to import: `--help` does without it
    from dino_train.checkpoint import load_checkpoint
    from dino_train.distributed import is_main
    from dino_train.run_log import LAST_NAME
    from dino_train.slurm import PretrainJob, slurm_executor, submit

    out = options.resume or options.out
    if options.resume:
        if options.data:
            raise UserError("--resume takes the data from the checkpoint: leave the paths out.")
        run = load_checkpoint(out / LAST_NAME)
        machine = run.machine if options.machine == MachineConfig() else options.machine
        job = PretrainJob(run.recipe, run.data, out, machine, run.evaluation)
    else:
        trainer.check_no_run(out)
        recipe = kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})
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


def distill_parser() -> ArgumentParser:
    """Options of `dino-train distill`."""
    parser = ArgumentParser(
        description="Teach a small student the features and the attention of a frozen teacher, without labels, and "
        "compare the two. --resume goes on with a run that was stopped."
    )
    add_run_arguments(parser, DistilRecipe, Path("runs/distill"))
    parser.add_argument("--comparison", type=ComparisonConfig, default=ComparisonConfig(), help="what is compared")
    return parser


def distill(options: Namespace) -> None:
    """`dino-train distill`."""
    from dino_train.evaluation.comparison import compare_with_teacher, show

    if Path(options.teacher).is_file():
        options.teacher = absolute(options.teacher)
    if options.comparison.size:
        parse_size(options.comparison.size)
    if checkpoint := train(options, DistilRecipe):
        # The loaders are done. The handler that torch leaves behind crashes Python when a child process ends while
        # OpenVINO's threads are in this one.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        show(compare_with_teacher(checkpoint, options.comparison))
        print(f"{checkpoint.with_name('student.onnx')} is the student; see {checkpoint.with_name('report.html')}.")


def export_parser() -> ArgumentParser:
    """Options of `dino-train export`."""
    parser = ArgumentParser(description="Write a student: one ONNX file that the dino_ros nodes run.")
    parser.add_argument(
        "weights",
        type=str,
        help="checkpoint (.pt) of pretrain or distill, official DINO v1 .pth, or timm model name (downloaded), such as "
        "a DINOv2, DINOv3, MAE or DeiT encoder",
    )
    parser.add_argument("--out", type=Path | None, help="file to write (default: student.onnx beside a checkpoint)")
    parser.add_argument(
        "--size", type=str, default="224x224", help="HxW of the student's input, multiples of the patch"
    )
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "fp16", "int8"], help="fp16 for GPUs, int8 for CPUs"
    )
    parser.add_argument(
        "--network",
        type=Literal["teacher", "student", "random"] | None,
        help="which weights of a training checkpoint, ours or the DINO authors' (default: the student of a distilled "
        "one, else the teacher)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        help="bags, videos, folders of pictures like those the robot sees: for the parity check (default: the demo's "
        "bag), and needed for int8, which is calibrated on them",
    )
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument("--knn", type=Path | None, help="train/<class>/ and val/<class>/: k-NN before and after int8")
    parser.add_argument("--licence", default="", help="of the weights (default: what their source states)")
    return parser


def export(options: Namespace) -> None:
    """`dino-train export`."""
    from dino_train.export import export as export_student

    height, width = parse_size(options.size)
    weights = Path(options.weights)
    beside = weights.parent if weights.suffix in {".pt", ".pth"} else Path()
    name = "student" if weights.suffix == ".pt" else weights.name.removesuffix(".pth")
    out = options.out or beside / f"{name}.onnx"
    info = export_student(
        options.weights,
        out,
        height,
        width,
        options.precision,
        options.network,
        options.data,
        options.licence,
        options.topic,
        options.knn,
    )
    if info.quantisation:
        show_cost(info.quantisation)
    print(f"{out}: {info.architecture}, {height}x{width}, {info.precision}, {out.stat().st_size / 1e6:.1f} MB.")
    print(f"Run it: ros2 launch dino_ros perception.launch.py model:={out.resolve()}")


def show_cost(quantisation: Mapping[str, str | int | float]) -> None:
    """Print what int8 changed, as `StudentInfo.quantisation` says it."""
    from rich.console import Console
    from rich.table import Table

    table = Table("int8 against fp32", "", title=f"On {quantisation['frames']} frames that were not calibrated on")
    table.add_row("cosine of patch tokens", f"{quantisation['cosine']:.4f}")
    table.add_row("mask IoU", f"{quantisation['mask_iou']:.3f}")
    if "knn_int8" in quantisation:
        table.add_row("k-NN, fp32 to int8", f"{quantisation['knn_fp32']:.1%} to {quantisation['knn_int8']:.1%}")
    Console().print(table)


def evaluate_parser() -> ArgumentParser:
    """Options of `dino-train evaluate`."""
    parser = ArgumentParser(description="Jaccard index of students' attention masks against ground-truth objects.")
    parser.add_argument("students", nargs="+", help="student files, or the name of a bundled one")
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures, or a bag")
    parser.add_argument("--masks", type=str, required=True, help="folder of PNGs of the same names, or the bag's topic")
    parser.add_argument("--topic", type=str | None, help="image topic of the bag")
    parser.add_argument("--keep", type=float, default=0.6, help="share of the attention that a mask keeps")
    return parser


def evaluate(options: Namespace) -> None:
    """`dino-train evaluate`: one row of scores per student."""
    from rich.console import Console
    from rich.table import Table

    from dino_ros.perceiver import Perceiver
    from dino_ros.sources import is_bag
    from dino_train.evaluation.jaccard import jaccard_scores, labelled_bag, labelled_folder

    table = Table("student", "per object, best head", "best head", "mean of heads", "pictures", "objects")
    for student in options.students:
        if is_bag(options.data):
            labelled = labelled_bag(options.data, options.topic, options.masks)
        else:
            labelled = labelled_folder(options.data, Path(options.masks))
        scores = jaccard_scores(Perceiver.load(student), labelled, options.keep)
        table.add_row(
            str(student),
            f"{scores.best_head_per_object:.3f}",
            f"{scores.best_head:.3f}",
            f"{scores.mean_of_heads:.3f}",
            str(scores.pictures),
            str(scores.objects),
        )
    Console().print(table)


def report_parser() -> ArgumentParser:
    """Options of `dino-train report`."""
    parser = ArgumentParser(description="Write report.html of a run again; it is written while the run goes on too.")
    parser.add_argument("run", type=Path, help="folder of the run")
    return parser


def report(options: Namespace) -> None:
    """`dino-train report`."""
    from dino_train.report import write_report

    print(f"Look at {write_report(options.run)}.")
