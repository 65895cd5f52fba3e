"""`dino-train export`: write a student file for dino_ros."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from dino_ros.errors import UserError
from dino_ros.files import check_replaceable
from dino_train.commands.data_options import add_topic_argument
from dino_train.commands.parser import CommandParser
from dino_train.config import parse_size
from dino_train.export.input_size import SQUARE, Camera, parse_camera

if TYPE_CHECKING:
    from dino_ros.student import StudentInfo


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Write a student: an ONNX file that the dino_ros nodes run, compared with torch
on real images before it is kept. Takes under a minute, in int8 some minutes.

    dino-train export runs/mine/last.pt --camera 640x480
"""
    )
    parser.add_argument(
        "weights",
        type=str,
        help="checkpoint of pretrain or distill; file or Hugging Face folder of another encoder, such as DINO, DINOv2, "
        "DINOv3, MAE, DeiT, CLIP or SigLIP; or timm model (downloaded)",
    )
    parser.add_argument(
        "--architecture",
        default="",
        help="timm name of a file's ViT, where its weights do not tell it, such as vit_base_patch16_clip_224.openai",
    )
    parser.add_argument(
        "--out",
        type=Path | None,
        help="file to write (default: next to the weights; student.onnx for a checkpoint, student_int8.onnx in int8)",
    )
    parser.add_argument(
        "--camera",
        type=str | None,
        help="WIDTHxHEIGHT of the camera's images, WIDTH first: chooses an input of their aspect, at 224x224's cost; "
        "give it unless you know --size",
    )
    parser.add_argument(
        "--size",
        type=str | None,
        help="HxW of the student's input, HEIGHT first, multiples of the patch size: larger for small objects, which "
        "costs time, smaller for a faster student (default: 224x224)",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "fp16", "int8"],
        help="fp16 for GPUs, int8 for CPUs that are too slow in fp32",
    )
    parser.add_argument(
        "--network",
        type=Literal["teacher", "student", "random"] | None,
        help="which weights of a training checkpoint, ours or the DINO authors'; the others only to compare (default: "
        "the teacher of DINO, else the student)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        help="bags, videos or folders of images like those the robot sees, for the parity check (default: the demo's "
        "bag); required for int8, which is calibrated on them",
    )
    add_topic_argument(parser)
    parser.add_argument(
        "--knn",
        type=Path | None,
        help="folder with train/<class>/ and val/<class>/ images, for k-NN before and after int8",
    )
    parser.add_argument(
        "--license",
        default="",
        help="license of the weights, where you know it and it is not stated (default: as their source states)",
    )
    parser.add_argument(
        "--good_for",
        default="",
        help="the scenes that the student is for and what it is not good for, shown by the node and `dino-ros info`",
    )
    return parser


def run(options: Namespace) -> None:
    size = chosen_size(options)
    refuse_early(options.weights, options.network)
    out = options.out or default_out(options.weights, options.precision)
    check_replaceable(out)

    from dino_train.export.student import export as export_student

    info = export_student(
        options.weights,
        out,
        size,
        options.precision,
        options.network,
        options.data,
        options.license,
        options.topic,
        options.knn,
        options.architecture,
        options.good_for,
    )
    if info.quantization:
        show_cost(info.quantization)
    print(f"{out}: {info.architecture}, {info.precision}, {out.stat().st_size / 1e6:.1f} MB.")
    print(size_note(info, options))
    print(f"Run it: ros2 launch dino_ros perception.launch.py model:={out.resolve()}")


def chosen_size(options: Namespace) -> tuple[int, int] | Camera:
    """What the options say of the input's size. Raises UserError if they say it twice."""
    if options.size and options.camera:
        raise UserError("--size and --camera are both given: leave out --size, and --camera chooses it.")
    return parse_camera(options.camera) if options.camera else parse_size(options.size or f"{SQUARE}x{SQUARE}")


def size_note(info: StudentInfo, options: Namespace) -> str:
    """A sentence on the input's size and the camera that it suits."""
    size = f"The input is {info.height} pixels high and {info.width} wide"
    if options.camera:
        camera = parse_camera(options.camera)
        shape = "an upright" if camera.height > camera.width else "a"
        return f"{size}, for {shape} camera {camera.width} wide and {camera.height} high."
    return f"{size}." if options.size else f"{size}: --camera WIDTHxHEIGHT chooses one of your camera's aspect."


def refuse_early(weights: str, network: str | None) -> None:
    """Raise UserError for a file that holds no ViT before timm and ONNX are imported, which takes seconds."""
    from dino_train.models.layouts import find_encoder
    from dino_train.models.weight_files import find_weights, is_checkpoint, read_weights

    path = find_weights(weights)
    if path is not None and not is_checkpoint(path) and network != "random":
        find_encoder(read_weights(path), network)


def default_out(weights: str, precision: str) -> Path:
    """Where the student is written: next to a file or folder, or in the current folder for a timm name.

    Other precisions than fp32 are in the name, so that a student does not replace that of another precision.
    """
    from dino_train.models.weight_files import find_weights, is_checkpoint

    ending = ".onnx" if precision == "fp32" else f"_{precision}.onnx"
    path = find_weights(weights)
    if path is None:
        return Path(f"{weights.split('/')[-1]}{ending}")
    path = path.resolve()
    name = path.stem if path.is_file() else path.name
    return path.with_name(f"{'student' if is_checkpoint(path) else name}{ending}")


def show_cost(quantization: Mapping[str, str | int | float]) -> None:
    """Print the cost of int8, from `StudentInfo.quantization`."""
    from rich.console import Console
    from rich.table import Table

    table = Table("int8 against fp32", "", title=f"On {quantization['frames']} frames held out from calibration")
    table.add_row("cosine of patch tokens", f"{quantization['cosine']:.4f}")
    table.add_row("mask IoU", f"{quantization['mask_iou']:.3f}")
    if "knn_int8" in quantization:
        table.add_row("k-NN, fp32 to int8", f"{quantization['knn_fp32']:.1%} to {quantization['knn_int8']:.1%}")
    Console().print(table)
