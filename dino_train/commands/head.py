"""`dino-train head`: give a student a head that finds objects, without labels."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Options of `dino-train head`."""
    parser = ArgumentParser(
        description="Train a head that finds objects, without labels, and write the student with it: the node then "
        "takes its masks from it, at no cost. It learns, from all the images, what is unlike the background in each."
    )
    parser.add_argument("student", type=str, help="student file, or the name of a bundled student")
    parser.add_argument("data", nargs="+", help="bags, videos, folders of images like those the robot sees")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument("--out", type=Path, default=Path("student_with_head.onnx"), help="file to write")
    return parser


def run(options: Namespace) -> None:
    """`dino-train head`."""
    from dino_train.export.foreground_head import add_head

    info = add_head(options.student, options.data, options.topic, options.out)
    agreement, images = info.foreground_head["agreement"], info.foreground_head["pictures"]
    print(f"{options.out}: learnt from {images} images; agrees with the masks of others by an IoU of {agreement:.2f}.")
    print(f"Run it: ros2 launch dino_ros perception.launch.py model:={options.out.resolve()}")
