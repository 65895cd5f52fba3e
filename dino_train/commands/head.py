"""`dino-train head`: train a foreground head, which finds objects, without labels."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.files import check_replaceable
from dino_train.commands.data_options import add_topic_argument
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Train a foreground head, which finds objects, without labels, and write the
student with it. The node then takes its masks from the head, at no cost. The
head learns from what two other methods find in 400 of the images, then from its
own masks: about a minute for a small student on two CPU cores, ten for ViT-S.

    dino-train head student.onnx my_bag --out with_head.onnx
"""
    )
    parser.add_argument("student", type=str, help="student file, or name of a bundled student")
    parser.add_argument("data", nargs="+", help="bags, videos or folders of images like those the robot sees")
    add_topic_argument(parser)
    parser.add_argument(
        "--masks",
        type=str | None,
        help="ground truth of the data, only to score the masks before and after: mask topic of a bag, or folder of "
        "PNGs named like the images",
    )
    parser.add_argument(
        "--replace", action="store_true", help="leave out the head that the student has, such as one of other scenes"
    )
    parser.add_argument("--out", type=Path, default=Path("student_with_head.onnx"), help="file to write")
    return parser


def run(options: Namespace) -> None:
    from dino_train.export.foreground_head import add_foreground_head

    check_replaceable(options.out)
    info = add_foreground_head(options.student, options.data, options.topic, options.out, options.replace)
    agreement, images = info.foreground_head["agreement"], info.foreground_head["images"]
    print(
        f"{options.out}: trained on {images} images; IoU {agreement:.2f} with the labels of images that a head was not "
        "trained on."
    )
    if options.masks:
        before, after = scores(options)
        print(f"IoU with the ground truth: {before:.2f} before, {after:.2f} with the head.")
    print(f"Run it: ros2 launch dino_ros perception.launch.py model:={options.out.resolve()}")


def scores(options: Namespace) -> tuple[float, float]:
    """IoU with the ground truth of the masks that the node makes without and with the head."""
    from dino_ros.masks.parameters import WITHOUT_HEAD, MaskParameters
    from dino_ros.perception.perceiver import Perceiver
    from dino_train.evaluation.segmentation.labeled_images import count_labeled
    from dino_train.evaluation.segmentation.mask_scores import labeled_sequences, mask_scores
    from dino_train.machine.progress import counted, progress

    topic = options.topic[0] if options.topic else None
    total = sum(count_labeled(Path(path), options.masks, topic) for path in options.data)
    variants = [MaskParameters(WITHOUT_HEAD), MaskParameters("foreground")]
    with progress("comparing masks with the ground truth", total) as advance:
        sequences = (
            counted(frames, advance)
            for path in options.data
            for frames in labeled_sequences(Path(path), options.masks, topic)
        )
        before, after = mask_scores(Perceiver.load(options.out), sequences, variants)
    return before.iou, after.iou
