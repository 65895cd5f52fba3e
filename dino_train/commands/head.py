"""`dino-train head`: train a foreground head, which finds objects, without labels."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Train a foreground head, which finds objects, without labels, and write the student with it. The "
        "node then takes its masks from the head, at no cost. The head learns what is unlike the background in each of "
        "many images."
    )
    parser.add_argument("student", type=str, help="student file, or name of a bundled student")
    parser.add_argument("data", nargs="+", help="bags, videos or folders of images like those the robot sees")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument("--out", type=Path, default=Path("student_with_head.onnx"), help="file to write")
    return parser


def run(options: Namespace) -> None:
    from dino_train.export.foreground_head import add_foreground_head

    info = add_foreground_head(options.student, options.data, options.topic, options.out)
    agreement, images = info.foreground_head["agreement"], info.foreground_head["images"]
    print(f"{options.out}: trained on {images} images; IoU with the masks of held-out images {agreement:.2f}.")
    print(f"Run it: ros2 launch dino_ros perception.launch.py model:={options.out.resolve()}")
