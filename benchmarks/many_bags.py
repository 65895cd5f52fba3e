"""A hundred hours of a camera in a thousand bags: what indexing them costs, and every later start.

    python benchmarks/many_bags.py

Bags of 3,600 frames of 1280x720 are hard links to one file, so that half a terabyte fits on a small disk. All of it is
in the page cache: the machine is measured and not its disk. Indexing takes turns with bare decoding of the same frames
at an eighth of their size, from memory, by as many processes. The start is that from the list of bags to the first
batch of crops. The index is cached; that of the first bag is copied for the others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bag_reading import STORAGES, jpegs, resident
from measuring import Results, machine, paired

from dino_ros.files import cache_folder
from dino_train.data.cache import Cache
from dino_train.data.frames import open_frames
from dino_train.data.listing import list_images
from dino_train.data.loader import EpochSampler, crop_loader
from dino_train.data.selection import SelectionParameters
from dino_train.machine.workers import cores
from dino_train.recipes import DinoRecipe

FRAMES = 3600
BAGS = (100, 300, 1000)
INDEXED = 2
"""Bags that are indexed in a turn."""
INDEXED_FRAMES = 1800
DRAWS = 600


def main() -> None:
    """Write the bags, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where there is half a gigabyte to write the bags to")
    parser.add_argument("--out", type=Path, default=Path("runs/many_bags"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out.absolute() / "many_bags.json")
    results.add("machine", "machine", [machine()])
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        images = jpegs(60)
        results.add("indexing", "indexing, over bare decoding", indexing(folder, images, options.turns))
        results.add("starting", "from a cached index to the first batch", starting(folder, images))


def indexing(folder: Path, images: list[bytes], turns: int) -> Iterator[dict[str, Any]]:
    """Indexing bags of some storages, over bare decoding: by the clock and by CPU time."""
    for storage in ("MCAP", "SQLite3", "MCAP, chunks zstd"):
        paths = linked(folder / storage, storage, images * (INDEXED_FRAMES // len(images)), INDEXED)
        took: list[tuple[float, float]] = []
        bare: list[tuple[float, float]] = []
        for _ in range(turns):
            shutil.rmtree(cache_folder("recordings"), ignore_errors=True)
            before = clocks()
            open_frames(paths, selection=SelectionParameters())
            between = clocks()
            with multiprocessing.get_context("fork").Pool(cores()) as pool:
                pool.starmap(decode, [(images, INDEXED_FRAMES)] * INDEXED, chunksize=1)
            after = clocks()
            took.append((between[0] - before[0], between[1] - before[1]))
            bare.append((after[0] - between[0], after[1] - between[1]))
        wall, cpu = (paired([b[i] for b in bare], [t[i] for t in took]) for i in (0, 1))
        rate = INDEXED * INDEXED_FRAMES / float(np.median([wall for wall, _ in took]))
        yield {"bags": storage, "frames/s": rate, "by the clock": wall, "CPU time": cpu, "load": machine()["load"]}


def clocks() -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds of this process and its ended children."""
    times = os.times()
    return time.monotonic(), sum(times[:4])


def decode(images: list[bytes], frames: int) -> None:
    """Decode as for thumbnails."""
    cv2.setNumThreads(1)
    for number in range(frames):
        cv2.imdecode(np.frombuffer(images[number % len(images)], np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)


def starting(folder: Path, images: list[bytes]) -> Iterator[dict[str, Any]]:
    """The start with a cached index, by the number of bags."""
    paths = linked(folder / "fleet", "MCAP", images * (FRAMES // len(images)), max(BAGS))
    open_frames(paths[:1], selection=SelectionParameters())
    arrays = cache_of(paths[0]).load()
    del arrays["state"]
    for path in paths[1:]:
        cache_of(path).add({name.replace(paths[0].name, path.name): array for name, array in arrays.items()})
    size = sum(file.stat().st_size for file in paths[0].iterdir())
    for count in BAGS:
        yield {"bags": str(count), "TB": count * size / 1e12, **start(paths[:count]), "load": machine()["load"]}


def start(paths: list[Path]) -> dict[str, Any]:
    """What a start takes, and what this process holds that then draws DRAWS frames of all bags."""
    beginning, cpu = clocks()
    frames = open_frames(paths, selection=SelectionParameters())
    opened = time.monotonic()
    recipe = DinoRecipe(batch_size=32)
    list_images(frames)
    listed = time.monotonic()
    next(iter(crop_loader(frames, recipe, EpochSampler(frames, recipe), workers=1)))
    first, used = clocks()
    for number in np.random.default_rng(0).integers(0, len(frames), DRAWS).tolist():
        frames[number]
    bags = sum(name.endswith(".mcap") for name in map(link, Path("/proc/self/fd").iterdir()))
    return {
        "frames": len(frames),
        "opened, s": opened - beginning,
        "listed, s": listed - opened,
        "first batch, s": first - beginning,
        "CPU, s": used - cpu,
        "resident, MB": resident() / 1e6,
        "open files": bags,
    }


def link(descriptor: Path) -> str:
    """What an open file is called; "" where it has been closed meanwhile."""
    try:
        return os.readlink(descriptor)
    except OSError:
        return ""


def linked(folder: Path, storage: str, images: list[bytes], count: int) -> list[Path]:
    """Write a bag, and others that are links to its files."""
    paths = [folder / f"bag_{number:04}" for number in range(count)]
    folder.mkdir()
    STORAGES[storage](paths[0], images)
    for path in paths[1:]:
        path.mkdir()
        for file in paths[0].iterdir():
            if file.suffix == ".yaml":
                (path / file.name).write_text(file.read_text().replace(paths[0].name, path.name))
            else:
                os.link(file, path / file.name.replace(paths[0].name, path.name))
    return paths


def cache_of(path: Path) -> Cache:
    """The cache of a bag of one file."""
    return Cache(path, [file for file in path.iterdir() if file.suffix != ".yaml"])


if __name__ == "__main__":
    main()
