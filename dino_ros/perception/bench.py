"""What `dino-ros bench` does: measure how fast a student runs on this machine and where the time goes. Without ROS."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends.parity import shipped_images
from dino_ros.errors import UserError
from dino_ros.files import replacing, write_whole
from dino_ros.images.encodings import resize
from dino_ros.masks.maker import MaskMaker
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.progress import duration

WARM_UP = 5
"""Unmeasured runs before the measured ones."""
BATCHES = (1, 2, 4, 8)
PERCENTILES = (50, 90, 99)
STAGES = ("prepare", "infer", "mask")
"""Resize to the student's input size; run the engine; make the mask at the camera's resolution."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one student on one engine."""

    student: str
    backend: str
    """Which engine runs it."""
    passed_over: dict[str, str]
    """Each faster engine that did not work, by name, and the sentence that says why."""
    image: str
    """WIDTHxHEIGHT of the camera's images, in pixels."""
    runs: int
    """Images measured one at a time."""
    stages: dict[str, dict[str, float]]
    """Milliseconds by stage, and for "all", at each percentile (p50, p90, p99), one image at a time."""
    throughput: dict[int, float]
    """Images per second through the engine, by batch size."""
    load_seconds: float
    """To load the student and warm it up."""
    memory_mb: float
    """Peak growth of the process's resident memory, MB; GPU memory is not included."""


def bench(path: str | Path, backend: str, width: int, height: int, runs: int, say: Callable[[str], None]) -> Measured:
    """Measure a student on images of `width` x `height` pixels; `say` receives progress, a sentence at a time.

    Raises UserError as `Perceiver.load` does, and for a size or number of runs below 1.
    """
    if width < 1 or height < 1 or runs < 1:
        raise UserError(
            f"Images of {width}x{height} and {runs} runs cannot be measured: give --size and --runs at least 1."
        )
    images = [resize(image, height, width) for image in shipped_images()]
    before = resident_mb()
    started = time.perf_counter()
    perceiver = Perceiver.load(path, backend, max(BATCHES), say)
    perceiver.warm_up(max(BATCHES))
    load_seconds = time.perf_counter() - started
    maker = MaskMaker()
    warm_up = [stage_times(perceiver, maker, images[run % len(images)]) for run in range(WARM_UP)]
    in_all = runs + sum(size * batches_of(size, runs) for size in BATCHES)
    seconds = in_all * float(np.median(np.sum(warm_up, axis=1))) / 1e3
    say(f"Measuring {runs} images one at a time, then in batches: about {duration(seconds)} in all.")
    times = np.array([stage_times(perceiver, maker, images[run % len(images)]) for run in range(runs)])
    stages = dict(zip(STAGES, times.T, strict=True)) | {"all": times.sum(axis=1)}
    throughput: dict[int, float] = {}
    for size in BATCHES:
        say(f"Measuring batches of {size}.")
        throughput[size] = batch_rate(perceiver, images, size, batches_of(size, runs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Measured(
        student=perceiver.path.name,
        backend=perceiver.chosen,
        passed_over=dict(perceiver.passed_over),
        image=f"{width}x{height}",
        runs=runs,
        stages={
            name: {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES} for name, values in stages.items()
        },
        throughput=throughput,
        load_seconds=load_seconds,
        memory_mb=peak - before,
    )


def stage_times(perceiver: Perceiver, maker: MaskMaker, rgb: NDArray[np.uint8]) -> list[float]:
    """Milliseconds of each of STAGES for one RGB image [H, W, 3]."""
    request = perceiver.request(["mask"])
    outputs = sorted(request.student_outputs)
    clock = [time.perf_counter()]
    image = perceiver.prepare_image(rgb)
    clock.append(time.perf_counter())
    result = perceiver.infer([image.input], outputs)[0]
    clock.append(time.perf_counter())
    perceiver.finish(result, image, request, maker)
    clock.append(time.perf_counter())
    return [1e3 * (end - start) for start, end in pairwise(clock)]


def batches_of(size: int, runs: int) -> int:
    """How many batches of `size` are measured, where `runs` images are."""
    return max(runs // size, 3)


def batch_rate(perceiver: Perceiver, images: list[NDArray[np.uint8]], size: int, runs: int) -> float:
    """Images per second through the engine in batches of `size`: the median of `runs`."""
    batch = [perceiver.prepare_image(images[number % len(images)]).input for number in range(size)]
    outputs = sorted(perceiver.request(["mask"]).student_outputs)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        perceiver.infer(batch, outputs)
        seconds.append(time.perf_counter() - start)
    return size / float(np.median(seconds))


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def table(measured: Measured) -> Iterable[str]:
    """The measurements as lines of text."""
    yield f"{measured.student}, {measured.image}, {measured.backend}"
    yield from (f"not {engine}: {reason}" for engine, reason in measured.passed_over.items())
    yield f"{'ms':<10}" + "".join(f"{f'p{p}':>9}" for p in PERCENTILES) + f"{'share':>9}"
    total = measured.stages["all"]["p50"]
    for name, values in measured.stages.items():
        cells = "".join(f"{value:9.2f}" for value in values.values())
        yield f"{name:<10}{cells}{values['p50'] / total:9.0%}"
    rates = ", ".join(f"{size}: {rate:.1f}" for size, rate in measured.throughput.items())
    yield f"images/s by batch size: {rates}"
    yield f"loaded and warm after {measured.load_seconds:.2f} s, {measured.memory_mb:.0f} MB of main memory"


def write(measured: Measured, out: Path) -> None:
    """Write bench.json and bench.png into the folder `out`. Raises UserError where matplotlib is missing."""
    write_whole(out / "bench.json", json.dumps(asdict(measured), indent=2).encode())
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            f"The chart needs matplotlib: pip install matplotlib ({out / 'bench.json'} is written)."
        ) from error
    matplotlib.use("Agg")
    draw(measured, out / "bench.png")


def draw(measured: Measured, path: Path) -> None:
    """Draw latency by stage and throughput by batch size."""
    from matplotlib import pyplot

    figure: Any
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    figure.suptitle(f"{measured.student}, {measured.image}: {measured.backend.split(' - ')[0]}", fontsize=10)
    start = dict.fromkeys(PERCENTILES, 0.0)
    for stage in STAGES:
        values = [measured.stages[stage][f"p{p}"] for p in PERCENTILES]
        left.bar([f"p{p}" for p in PERCENTILES], values, bottom=list(start.values()), label=stage)
        start = {p: start[p] + value for p, value in zip(PERCENTILES, values, strict=True)}
    left.set(ylabel="ms per image", title="latency, by stage")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(STAGES), frameon=False)
    sizes = [str(size) for size in measured.throughput]
    right.bar(sizes, list(measured.throughput.values()), color="tab:green")
    right.set(xlabel="batch size", ylabel="images per second", title="throughput of the engine")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
