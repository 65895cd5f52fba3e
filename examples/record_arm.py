"""Record the demonstrations that `dino-train evaluate policy` clones: a rosbag2, a simulated arm's own log.

    python examples/record_arm.py OUT --demonstrations 200 --seed 9

An expert reaches, pushes and picks in turn, each time in a scene with other colors and light, at four frames a second.
Topics:

    /camera/image_raw/compressed    sensor_msgs/CompressedImage, JPEG, 320x240
    /joint_states                   sensor_msgs/JointState, the arm's seven joints
    /ground_truth/poses             geometry_msgs/PoseArray in the frame of the arm's base: where the cube is
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from render_table import START, write_bag
from rich.progress import track
from rosbags.typesys import Stores, get_typestore

from dino_train.evaluation.policy.arm import simulated_arm
from dino_train.evaluation.policy.cloning import Moment
from dino_train.evaluation.policy.expert import TASKS
from dino_train.evaluation.policy.trials import demonstrate

STEP = 250_000_000  # nanoseconds
PAUSE = 5_000_000_000  # between demonstrations, while a person would set the next scene


def messages(demonstrations: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each step, its stamp in nanoseconds and the message of each topic."""
    types = get_typestore(Stores.ROS2_JAZZY).types
    point, quaternion = types["geometry_msgs/msg/Point"], types["geometry_msgs/msg/Quaternion"]
    names = [f"panda_joint{number}" for number in range(1, 8)]
    stamp, nothing = START, np.empty(0)
    for moment, first in moments(demonstrations, seed):
        stamp += PAUSE if first else STEP

        def header(frame: str, stamp: int = stamp) -> Any:
            return types["std_msgs/msg/Header"](
                types["builtin_interfaces/msg/Time"](*divmod(stamp, 1_000_000_000)), frame
            )

        bgr = cv2.cvtColor(moment.image, cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        pose = types["geometry_msgs/msg/Pose"](point(*moment.state.cube), quaternion(0.0, 0.0, 0.0, 1.0))
        yield (
            stamp,
            {
                "/camera/image_raw/compressed": types["sensor_msgs/msg/CompressedImage"](
                    header("camera"), "jpeg", jpeg.ravel()
                ),
                "/joint_states": types["sensor_msgs/msg/JointState"](
                    header("panda_link0"), names, moment.state.joints, nothing, nothing
                ),
                "/ground_truth/poses": types["geometry_msgs/msg/PoseArray"](header("panda_link0"), [pose]),
            },
        )


def moments(demonstrations: int, seed: int) -> Iterator[tuple[Moment, bool]]:
    """The steps of all demonstrations, each with whether it begins one."""
    with simulated_arm() as arm:
        for number in track(range(demonstrations), description="recording"):
            task = list(TASKS)[number % len(TASKS)]
            for step, moment in enumerate(demonstrate(arm, task, 1, seed + number)):
                yield moment, step == 0


def main() -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the rosbag2 to write")
    parser.add_argument("--demonstrations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=9, help="the scenes of `evaluate policy` are others")
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"{options.out} exists already: remove it or choose another name.")
    if options.demonstrations < 1 or options.seed < 0:
        sys.exit("--demonstrations must be at least 1, and --seed must not be negative.")
    write_bag(options.out, messages(options.demonstrations, options.seed))


if __name__ == "__main__":
    main()
