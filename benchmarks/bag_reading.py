"""CPU time of reading a frame from a bag, over bare JPEG decoding of the same frames from memory.

    python benchmarks/bag_reading.py

Reader and bare decoding take turns, frame by frame. For each storage the ratio with its interval is printed, for frames
in any order and, where chunks are compressed, in the order of an epoch; then what a reader's memory grows by with a bag
and one ten times as large. It measures the reader, not the disk: the files are in the page cache. $DINO_ROS_TEST_DATA
adds a real recording.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import Results, machine, paired
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from dino_ros.images.bag_files import UNPACKED_BYTES, MessageReader
from dino_ros.images.sources import open_source
from dino_train.data import bags
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.bags import BagFrames
from dino_train.data.chunk_order import ChunkOrder, compressed_chunks

TURNS, DRAWS = 9, 20
MANY = 1800
"""Frames of recordings whose chunks are more than a process keeps unpacked."""
BATCH = 32
TOPIC = "/camera/image_raw/compressed"
TYPE = "sensor_msgs/msg/CompressedImage"
DEMO_BAG = Path(__file__).resolve().parents[1] / "dino_ros" / "demo" / "table_bag"


def main() -> None:
    """Write the bags, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bag_reading"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "bag_reading.json")
    results.add("machine", "machine", [machine()])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        images = jpegs(60)
        results.add("speed", "reading a frame, CPU time of one thread", speed(Path(folder), images))
        results.add("memory", "memory of a reader", memory(Path(folder), images))


def speed(folder: Path, images: list[bytes]) -> Iterator[dict[str, Any]]:
    """One row per bag and order."""
    small = jpegs(60, (320, 240))
    recordings: dict[str, tuple[Path, str]] = {"demo, 320x240, MCAP": (DEMO_BAG, TOPIC)}
    if data := os.environ.get("DINO_ROS_TEST_DATA"):
        recordings["EuRoC, 752x480 mono, MCAP"] = (Path(data) / "bags" / "euroc_micro", "/cam0/image_raw/compressed")
    for name, write in STORAGES.items():
        path = folder / (f"{name}.bag" if name.startswith("ROS 1") else name)
        write(path, images * (MANY // 60 if name == "MCAP, chunks zstd" else 1))
        recordings[f"1280x720, {name}"] = (path, TOPIC)
    STORAGES["MCAP, chunks zstd"](folder / "small", small * (10 * MANY // 60))
    recordings["320x240, MCAP, chunks zstd"] = (folder / "small", TOPIC)
    for name, (path, topic) in recordings.items():
        frames = open_bag_frames(path, [topic])[0][0]
        orders = {"any": None}
        if frames.chunks["unpacked"].sum() > 1.5 * UNPACKED_BYTES:
            orders["of an epoch"] = ChunkOrder(*compressed_chunks([frames]), BATCH)
        for order, chunks in orders.items():
            yield {"bag": name, "order": order, **compared(frames, chunks), "load": machine()["load"]}


def compared(frames: BagFrames, chunks: ChunkOrder | None) -> dict[str, Any]:
    """Mean CPU ms of bare decoding and of the reader, and the speed of the reader over that of decoding.

    In the order of an epoch unpacked chunks are kept as in training; in any other only the last one is, as good as in a
    recording that is much larger than what is kept.
    """
    rng, numbers = np.random.default_rng(0), np.arange(len(frames))
    order = (chunks.shuffle(numbers, rng) if chunks else rng.permutation(numbers)).tolist()
    before = round(chunks.stretch * len(order)) if chunks else 0
    drawn = [order[number % len(order)] for number in range(before + TURNS * DRAWS)]
    encoded = {number: bytes(frames.message(number).data) for number in drawn[before:]}
    bags._READER = MessageReader() if chunks else MessageReader(unpacked_bytes=0)
    for number in drawn[:before]:
        frames.message(number)
    decodes, reads = [], []
    for turn in np.array_split(drawn[before:], TURNS):
        decode = read = 0.0
        for number in turn.tolist():  # frame by frame in turn: what else the machine does meets both alike
            start = time.thread_time()
            cv2.imdecode(np.frombuffer(encoded[number], np.uint8), cv2.IMREAD_COLOR)
            middle = time.thread_time()
            frames[number]
            decode, read = decode + middle - start, read + time.thread_time() - middle
        decodes.append(1e3 * decode / DRAWS)
        reads.append(1e3 * read / DRAWS)
    milliseconds = {"imdecode, ms": float(np.median(decodes)), "reader, ms": float(np.median(reads))}
    return {**milliseconds, "ratio": paired(decodes, reads)}


def memory(folder: Path, images: list[bytes]) -> Iterator[dict[str, Any]]:
    """One row per storage: resident memory of a reader in a process of its own."""
    for name in ("MCAP", "MCAP, chunks zstd", "SQLite3", "ROS 1"):
        for count in (100, 1000):
            path = folder / f"{name} {count}{'.bag' if name == 'ROS 1' else ''}"
            STORAGES[name](path, images[:20] * (count // 20))
            size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
            frames = open_bag_frames(path)[0][0]
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                grown = pool.apply(growth_by_reading, (frames,))
            index = len(pickle.dumps(frames))
            megabytes = {"bag, MB": size / 1e6, "index, kB": index / 1e3, "grows by, MB": grown / 1e6}
            yield {"storage": name, "frames": count, **megabytes}


def growth_by_reading(frames: BagFrames) -> int:
    """What the resident memory of this process grows by, in bytes, with 200 frames drawn at random."""
    before = resident()
    for number in np.random.default_rng(0).integers(0, len(frames), 200).tolist():
        frames[number]
    return resident() - before


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def jpegs(count: int, size: tuple[int, int] = (1280, 720)) -> list[bytes]:
    """JPEGs of the demo's frames at a width and height, with the noise of a sensor."""
    rng = np.random.default_rng(0)
    images = []
    for _, frame in zip(range(count), open_source(DEMO_BAG, TOPIC), strict=False):
        large = cv2.resize(frame.rgb(), size, interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(large + rng.normal(0, 4, large.shape), 0, 255).astype(np.uint8)
        images.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return images


def write_ros2(storage: str, mode: str) -> Callable[[Path, list[bytes]], None]:
    """Return a function that writes a rosbag2 of images."""

    def write(path: Path, images: list[bytes]) -> None:
        store = get_typestore(Stores.ROS2_JAZZY)
        writer = Writer2(path, version=9, storage_plugin=StoragePlugin[storage])
        if mode != "NONE":
            writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
        with writer:
            connection = writer.add_connection(TOPIC, TYPE, typestore=store)
            for number, image in enumerate(images):
                writer.write(connection, number * 10**8, store.serialize_cdr(message(store, image, ()), TYPE))

    return write


def write_ros1(compression: str) -> Callable[[Path, list[bytes]], None]:
    """Return a function that writes a ROS 1 bag of images."""

    def write(path: Path, images: list[bytes]) -> None:
        store = get_typestore(Stores.ROS1_NOETIC)
        writer = Writer1(path)
        if compression != "NONE":
            writer.set_compression(Writer1.CompressionFormat[compression])
        with writer:
            connection = writer.add_connection(TOPIC, TYPE, typestore=store)
            for number, image in enumerate(images):
                writer.write(connection, number * 10**8, bytes(store.serialize_ros1(message(store, image, (0,)), TYPE)))

    return write


def message(store: Any, image: bytes, sequence: tuple[int, ...]) -> Any:
    """Make a CompressedImage; a header of ROS 1 begins with a sequence number."""
    types = store.types
    header = types["std_msgs/msg/Header"](*sequence, types["builtin_interfaces/msg/Time"](0, 0), "camera")
    return types[TYPE](header, "jpeg", np.frombuffer(image, np.uint8))


STORAGES = {
    "MCAP": write_ros2("MCAP", "NONE"),
    "MCAP, chunks zstd": write_ros2("MCAP", "STORAGE"),
    "MCAP, messages zstd": write_ros2("MCAP", "MESSAGE"),
    "SQLite3": write_ros2("SQLITE3", "NONE"),
    "SQLite3, messages zstd": write_ros2("SQLITE3", "MESSAGE"),
    "ROS 1": write_ros1("NONE"),
    "ROS 1, chunks lz4": write_ros1("LZ4"),
    "ROS 1, chunks bz2": write_ros1("BZ2"),
}


if __name__ == "__main__":
    main()
