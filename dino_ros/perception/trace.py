"""What `dino-ros bench --trace` does: follow single frames through the threads of the pipeline. Without ROS."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dino_ros.backends.parity import shipped_images
from dino_ros.errors import UserError
from dino_ros.files import replacing, write_whole
from dino_ros.images.encodings import resize
from dino_ros.images.sources import RgbImage
from dino_ros.images.stamps import SECOND
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.bench import STAGES, WARM_UP, stage_times
from dino_ros.perception.perceiver import Perceiver, Perception
from dino_ros.perception.pipeline import ArrivedFrame, InferredFrame, Pipeline, PreparedFrame

FRAMES = 60
"""Frames that are followed."""
SHARE = 0.5
"""Of the rate that the student manages: what a camera with some room to spare sends."""


@dataclass(frozen=True)
class Span:
    """A stage at work on a frame, in a thread of its own."""

    frame: int
    stage: str
    """Of STAGES."""
    start: float
    """Milliseconds since the first frame came in."""
    end: float
    thread_cpu: float
    """Milliseconds of a core that the stage's thread took; in the rest it waited: for the engine's threads, for another
    thread of Python, or for the operating system."""
    process_cpu: float
    """Milliseconds of all cores that the process took meanwhile, the engine's threads and other stages included."""


@dataclass(frozen=True)
class Trace:
    """Frames on their way."""

    student: str
    backend: str
    rate: float
    """Frames per second."""
    arrived: dict[int, float]
    """By frame, milliseconds at which it came in."""
    spans: list[Span]
    """Of all frames that came through."""

    def latencies(self) -> dict[int, float]:
        """By frame, milliseconds from its arrival to its mask."""
        return {span.frame: span.end - self.arrived[span.frame] for span in self.spans if span.stage == STAGES[-1]}

    def medians(self) -> dict[str, dict[str, float]]:
        """By stage the median milliseconds of waiting before it, of the stage, of its thread, and of all cores."""
        ends = {(span.frame, span.stage): span.end for span in self.spans}
        result = {}
        for number, stage in enumerate(STAGES):
            spans = [span for span in self.spans if span.stage == stage]
            before = [ends[span.frame, STAGES[number - 1]] if number else self.arrived[span.frame] for span in spans]
            columns = {
                "wait": [span.start - ready for span, ready in zip(spans, before, strict=True)],
                "stage": [span.end - span.start for span in spans],
                "its thread": [span.thread_cpu for span in spans],
                "all cores": [span.process_cpu for span in spans],
            }
            result[stage] = {name: float(np.median(values)) for name, values in columns.items()}
        return result


class Listener:
    """A camera whose masks are counted."""

    image_topic = "the traced camera"

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.done = threading.Semaphore(0)
        """Released for each frame that came through, was superseded, or failed."""

    def wanted(self) -> Collection[str]:
        return ("mask",)

    def look_closer(self, frame: PreparedFrame) -> None:
        """Nothing is looked at."""

    def deliver(self, frame: PreparedFrame, perception: Perception) -> None:
        self.done.release()

    def superseded(self) -> None:
        self.done.release()

    def failed(self, sentence: str) -> None:
        self.sentences.append(sentence)
        self.done.release()


class TracedPipeline(Pipeline):
    """A pipeline that notes when each stage is at work. Frames are told apart by their stamps."""

    def __init__(self, perceiver: Perceiver) -> None:
        self.spans: list[tuple[int, str, float, float, float, float]] = []
        """Stamp, stage, start and end in seconds of time.perf_counter(), seconds of CPU: the thread's, all cores'."""
        super().__init__(perceiver, MaskParameters())

    @contextmanager
    def _noting(self, stage: str, stamps: Iterable[int]) -> Iterator[None]:
        start, thread, process = time.perf_counter(), time.thread_time(), time.process_time()
        yield
        taken = (time.perf_counter(), time.thread_time() - thread, time.process_time() - process)
        self.spans += [(stamp, stage, start, *taken) for stamp in stamps]

    def _prepare_frames(self, frames: dict[Any, ArrivedFrame]) -> None:
        with self._noting("prepare", [frame.stamp for frame in frames.values()]):
            super()._prepare_frames(frames)

    def _infer_frames(self, frames: dict[Any, PreparedFrame]) -> None:
        with self._noting("infer", [frame.arrived.stamp for frame in frames.values()]):
            super()._infer_frames(frames)

    def _deliver_frames(self, frames: dict[Any, InferredFrame]) -> None:
        with self._noting("mask", [frame.prepared.arrived.stamp for frame in frames.values()]):
            super()._deliver_frames(frames)


def trace(path: str | Path, backend: str, width: int, height: int, say: Callable[[str], None]) -> Trace:
    """Follow FRAMES raw images of `width` x `height` pixels from their arrival to their masks, as the node makes them.

    They come at SHARE of the rate that the student manages. Raises UserError as `Perceiver.load` does, and if the
    pipeline fails.
    """
    perceiver = Perceiver.load(path, backend, report=say)
    images = [resize(image, height, width) for image in shipped_images()]
    maker = MaskMaker()
    alone = [sum(stage_times(perceiver, maker, images[run % len(images)])) for run in range(2 * WARM_UP)]
    period = float(np.median(alone[WARM_UP:])) / 1e3 / SHARE
    say(f"Following {FRAMES} frames, {1 / period:.1f} a second.")
    messages = [RgbImage(image, height, width, 3 * width) for image in images]
    pipeline, camera = TracedPipeline(perceiver), Listener()
    arrived = {}
    begin = time.perf_counter()
    try:
        for number in range(-WARM_UP, FRAMES):
            time.sleep(max(begin + (number + WARM_UP) * period - time.perf_counter(), 0))
            arrived[number] = time.perf_counter()
            pipeline.offer(camera, messages[number % len(messages)], (number + WARM_UP) * SECOND)
        for _ in arrived:
            camera.done.acquire(timeout=60)
    finally:
        pipeline.stop()
    if camera.sentences:
        raise UserError(camera.sentences[0])
    return Trace(perceiver.path.name, perceiver.chosen, 1 / period, *_of_whole_frames(arrived, pipeline.spans))


def _of_whole_frames(
    arrived: dict[int, float], noted: Sequence[tuple[int, str, float, float, float, float]]
) -> tuple[dict[int, float], list[Span]]:
    """Arrivals and spans of the frames after the warm-up that went through all stages, in ms since the first one."""
    numbers = [stamp // SECOND - WARM_UP for stamp, *_ in noted]
    whole = {number for number in numbers if number >= 0 and numbers.count(number) == len(STAGES)}
    begin = arrived[0]
    spans = [
        Span(number, stage, 1e3 * (start - begin), 1e3 * (end - begin), 1e3 * thread, 1e3 * process)
        for number, (_, stage, start, end, thread, process) in zip(numbers, noted, strict=True)
        if number in whole
    ]
    return {number: 1e3 * (arrived[number] - begin) for number in sorted(whole)}, spans


def table(traced: Trace) -> Iterable[str]:
    """The medians as lines of text."""
    medians = traced.medians()
    latencies = list(traced.latencies().values())
    p50, p99 = np.percentile(latencies, (50, 99))
    yield f"{traced.student}, {traced.backend}: {len(latencies)} frames at {traced.rate:.1f} Hz"
    yield f"{'median ms':<10}" + "".join(f"{name:>12}" for name in next(iter(medians.values())))
    for stage, values in medians.items():
        yield f"{stage:<10}" + "".join(f"{value:12.2f}" for value in values.values())
    yield f"arrival to mask: p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def write(traced: Trace, out: Path) -> None:
    """Write trace.json and trace.png into the folder `out`. Raises UserError where matplotlib is missing."""
    write_whole(out / "trace.json", json.dumps(asdict(traced) | {"medians": traced.medians()}, indent=1).encode())
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            f"The picture needs matplotlib: pip install matplotlib ({out / 'trace.json'} is written)."
        ) from error
    matplotlib.use("Agg")
    draw(traced, out / "trace.png")


def draw(traced: Trace, path: Path) -> None:
    """Draw a frame of median latency, a row for each thread: dark for what its core did, light for what it waited."""
    from matplotlib import pyplot

    latencies = traced.latencies()
    frame = sorted(latencies, key=lambda number: latencies[number])[len(latencies) // 2]
    spans = [span for span in traced.spans if span.frame == frame]
    figure: Any
    figure, axes = pyplot.subplots(figsize=(9, 2.6), layout="constrained")
    engine = traced.backend.split(" - ")[0]
    figure.suptitle(f"{traced.student}, {engine}: a frame that took {latencies[frame]:.1f} ms", fontsize=10)
    for row, span in enumerate(spans):
        left, width = span.start - traced.arrived[frame], span.end - span.start
        axes.barh(row, width, left=left, height=0.6, color="C0", alpha=0.35)
        axes.barh(row, min(span.thread_cpu, width), left=left, height=0.6, color="C0")
        axes.text(left + width, row, f" {width:.1f} ms, all cores {span.process_cpu:.1f}", va="center", fontsize=8)
    axes.set(xlabel="ms since it arrived", xlim=(0, 1.3 * latencies[frame]))
    axes.set_yticks(range(len(spans)), [span.stage for span in spans])
    axes.invert_yaxis()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
