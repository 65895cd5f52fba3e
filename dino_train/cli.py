"""The command `dino-train`."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from dino_ros.errors import UserError
from dino_train.config import Recipe, find_recipe


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
    parser = ArgumentParser(prog="dino-train", description="Pretrain, evaluate and export DINO students.")
    commands = parser.add_subcommands(required=True, dest="command")
    commands.add_subcommand("pretrain", pretrain_parser(), help="learn from pictures, without labels")
    commands.add_subcommand("export", export_parser(), help="write a student file for dino_ros")
    commands.add_subcommand("evaluate", evaluate_parser(), help="score a student's attention masks")
    # A recipe that ships may be given by its name: jsonargparse reads paths only.
    arguments = [
        str(find_recipe(value)) if previous == "--config" else value
        for previous, value in zip(["", *arguments], arguments, strict=False)
    ]
    options = parser.instantiate(parser.parse_args(arguments))
    {"pretrain": pretrain, "export": export, "evaluate": evaluate}[options.command](options[options.command])


def pretrain_parser() -> ArgumentParser:
    """Options of `dino-train pretrain`."""
    parser = ArgumentParser(
        description="Pretrain a ViT by self-distillation (DINO). Ctrl-C loses at most two minutes: go on with --resume."
    )
    parser.add_argument("data", nargs="*", help="bags, folders of pictures, tar shards, videos; several are mixed")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="folder for checkpoint and log")
    parser.add_argument("--resume", type=Path | None, help="go on with the run in this folder, as it was started")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where to train")
    parser.add_argument("--workers", type=int | None, help="processes that decode and crop (default: one per core)")
    parser.add_argument("--config", action="config", help="a recipe that ships, by name, or the path of a YAML file")
    parser.add_class_arguments(Recipe)
    return parser


def pretrain(options: Namespace) -> None:
    """`dino-train pretrain`."""
    from dino_train import trainer  # torch takes seconds to import: `--help` does without it

    if options.resume:
        if options.data:
            raise UserError("--resume takes the data from the checkpoint: leave the paths out.")
        checkpoint = trainer.resume_run(options.resume, options.device, options.workers)
    else:
        recipe = Recipe(**{field.name: options[field.name] for field in dataclasses.fields(Recipe)})
        checkpoint = trainer.pretrain(
            recipe, options.data, options.topic, options.out, device=options.device, workers=options.workers
        )
    print(f"{checkpoint}: go on with `dino-train export {checkpoint} --size HxW`.")


def export_parser() -> ArgumentParser:
    """Options of `dino-train export`."""
    parser = ArgumentParser(description="Write a student: one ONNX file that the dino_ros nodes run.")
    parser.add_argument(
        "weights",
        type=str,
        help="checkpoint.pt of pretrain, official DINO v1 .pth, or timm model name (downloaded)",
    )
    parser.add_argument("--out", type=Path | None, help="file to write (default: student.onnx beside a checkpoint)")
    parser.add_argument(
        "--size", type=str, default="224x224", help="HxW of the student's input, multiples of the patch"
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16"], help="of the weights; fp16 for GPUs")
    parser.add_argument(
        "--network",
        default="teacher",
        choices=["teacher", "student", "random"],
        help="which weights of a checkpoint",
    )
    parser.add_argument("--data", nargs="+", default=[], help="pictures for the parity check (default: the demo's bag)")
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
        options.weights, out, height, width, options.precision, options.network, options.data, options.licence
    )
    print(f"{out}: {info.architecture}, {height}x{width}, {info.precision}, {out.stat().st_size / 1e6:.1f} MB.")
    print(f"Run it: ros2 launch dino_ros perception.launch.py model:={out.resolve()}")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "HxW"; raises UserError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UserError(f"--size {text} is not HxW: write for example 224x224.")
    return int(height), int(width)


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


if __name__ == "__main__":
    main()
