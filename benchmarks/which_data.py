"""Time and memory of `dino-train select`, `dino-ros search` and `dino-ros novelty` on bags of some lengths.

    python benchmarks/which_data.py videos/cups.mp4 videos/bottles.mp4 caltech101/train --out runs/which_data

Of each length a bag is made: one frame a second, 320x240 JPEG, evenly spaced among those of the recordings, each of
which is there once. `select` runs twice: it computes what the student sees, and then finds that in the cache, as the
others do. Each command runs in a process of its own; memory is the most that it had resident. Writes
OUT/which_data.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import Results, machine
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dino_ros.images.encodings import to_rgb
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import open_source

WIDTH, HEIGHT = 320, 240
START = 1_700_000_000  # stamp of the first frame, seconds
CROP = (60, 160, 100, 200)  # of the middle frame: what is searched


def encoded(paths: Sequence[Path]) -> list[bytes]:
    """The frames of recordings, as JPEG."""
    found = []
    for path in paths:
        for frame in open_source(path):
            small = cv2.resize(to_rgb(frame.image), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            found.append(cv2.imencode(".jpg", small[:, :, ::-1])[1].tobytes())
    return found


def write_bag(images: Sequence[bytes], out: Path) -> None:
    """A bag with one image a second."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    compressed, header = types["sensor_msgs/msg/CompressedImage"], types["std_msgs/msg/Header"]
    stamp = types["builtin_interfaces/msg/Time"]
    with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        name = compressed.__msgtype__
        connection = writer.add_connection("/camera/image_raw/compressed", name, typestore=store)
        for second, image in enumerate(images, start=START):
            message = compressed(header(stamp(second, 0), "camera"), "jpeg", np.frombuffer(image, np.uint8))
            writer.write(connection, second * 1_000_000_000, store.serialize_cdr(message, name))


def measured(command: Sequence[str], log: Path, cache: Path) -> dict[str, Any]:
    """Run a module of Python with its arguments: seconds, seconds of CPU, megabytes, and the load of the machine."""
    began = time.monotonic()
    append = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", *command],
        {**os.environ, "XDG_CACHE_HOME": str(cache)},
        file_actions=[append, (os.POSIX_SPAWN_DUP2, 1, 2)],
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"`{' '.join(command)}` failed: see {log}.")
    return {
        "command": " ".join(command[1:2]),
        "seconds": round(time.monotonic() - began, 1),
        "cpu seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak MB": round(usage.ru_maxrss / 1024),
        "load": machine()["load"],
    }


def main() -> None:
    """Make the bags, run the commands, and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="+", help="bags, videos or folders whose frames are taken")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--frames", type=int, nargs="+", default=(100, 1000, 3600), help="lengths of the bags")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True)
    images = encoded(options.recordings)
    if len(images) < max(options.frames):
        sys.exit(f"The recordings have {len(images)} frames: give more, or --frames below that.")
    results = Results(out / "which_data.json")
    results.add("machine", "machine", [machine()])
    results.add("commands", "commands", commands(images, options.frames, out))


def commands(images: Sequence[bytes], frames: Sequence[int], out: Path) -> Iterator[dict[str, Any]]:
    """Run each command on a bag of each length."""
    for count in frames:
        chosen = [images[number] for number in evenly_spaced(len(images), count)]
        bag, crop = out / f"bag_{count}", out / f"crop_{count}.png"
        write_bag(chosen, bag)
        top, bottom, left, right = CROP
        middle = cv2.imdecode(np.frombuffer(chosen[count // 2], np.uint8), cv2.IMREAD_COLOR)
        cv2.imwrite(str(crop), middle[top:bottom, left:right])  # type: ignore[index]
        select = ["dino_train", "select", str(bag), "--count", "50", "--out"]
        for command in (
            [*select, str(out / f"selected_{count}")],
            [*select, str(out / f"selected_again_{count}")],
            ["dino_ros.cli", "search", str(bag), "--like", str(crop), "--out", str(out / f"found_{count}")],
            ["dino_ros.cli", "novelty", str(bag), "--known", str(bag), "--out", str(out / f"novel_{count}")],
        ):
            yield {"frames": count, **measured(command, out / "commands.log", out / "cache")}


if __name__ == "__main__":
    main()
