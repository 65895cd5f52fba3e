"""The three stages, with real students and cameras that only remember what they are told."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from image_messages import message
from numpy.typing import NDArray
from scenes import image

from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver, Perception
from dino_ros.perception.pipeline import COLORS, IMAGE, Pipeline, PreparedFrame


class MemoryCamera:
    """Remembers every call, and can hold up the deliver stage."""

    image_topic = "/camera/image_raw"

    def __init__(self, wanted: Collection[str] = ("mask",)) -> None:
        self._wanted = wanted
        self.changed = threading.Condition()
        self.delivered: list[tuple[PreparedFrame, Perception]] = []
        self.sentences: list[str] = []
        self.count_superseded = 0
        self.asked = False
        self.may_deliver = threading.Event()
        self.may_deliver.set()

    def wanted(self) -> Collection[str]:
        with self.changed:
            self.asked = True
            self.changed.notify()
        return self._wanted

    def look_closer(self, frame: PreparedFrame) -> None:
        """Nothing."""

    def deliver(self, frame: PreparedFrame, perception: Perception) -> None:
        self.may_deliver.wait()
        with self.changed:
            self.delivered.append((frame, perception))
            self.changed.notify()

    def superseded(self) -> None:
        with self.changed:
            self.count_superseded += 1
            self.changed.notify()

    def failed(self, sentence: str) -> None:
        with self.changed:
            self.sentences.append(sentence)
            self.changed.notify()

    def wait(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout=20)

    def accounted(self) -> int:
        return len(self.delivered) + self.count_superseded + len(self.sentences)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it holds at some moment of the next 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class GatedBackend:
    """The real backend behind a gate; remembers the size of every batch."""

    def __init__(self, perceiver: Perceiver) -> None:
        self._backend = perceiver.backend
        self.description = "gated"
        self.batches: list[int] = []
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        self.batches.append(len(images))
        self.entered.release()
        assert self.gate.acquire(timeout=20)
        return self._backend(images, outputs)


@pytest.fixture
def gated(student: Path) -> Perceiver:
    perceiver = Perceiver.load(student, "onnxruntime")
    return Perceiver(perceiver.info, GatedBackend(perceiver))


@pytest.fixture
def run() -> Iterator[Callable[[Perceiver], Pipeline]]:
    """Makes pipelines, and stops them at the end of the test."""
    made: list[Pipeline] = []

    def make(perceiver: Perceiver) -> Pipeline:
        made.append(Pipeline(perceiver, MaskParameters(steady=0.0)))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.stop()


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("wanted", [("mask",), ("mask", "features", IMAGE)])
def test_results_are_those_of_the_perceiver(
    student: Path, run: Callable[[Perceiver], Pipeline], encoding: str, wanted: tuple[str, ...]
) -> None:
    perceiver = Perceiver.load(student, "onnxruntime")
    pipeline, camera = run(perceiver), MemoryCamera(wanted)
    for number in range(3):
        rgb = image(100, 120, number)
        pipeline.offer(camera, message(rgb if encoding == "rgb8" else rgb[:, :, ::-1], encoding, padding=5), 0)
        camera.wait(lambda n=number: len(camera.delivered) > n)
        frame, perception = camera.delivered[-1]
        alone = perceiver(rgb)
        np.testing.assert_array_equal(perception.mask, alone.mask)
        if IMAGE in wanted:
            np.testing.assert_allclose(perception.features, alone.features, atol=1e-6)
            np.testing.assert_array_equal(frame.image.rgb, rgb)


@pytest.mark.parametrize("wanted", [("mask",), ("mask", IMAGE)])
def test_dark_images_of_a_sensor_of_12_bits_stay_dark(
    student: Path, run: Callable[[Perceiver], Pipeline], wanted: tuple[str, ...]
) -> None:
    perceiver = Perceiver.load(student, "onnxruntime")
    pipeline, camera = run(perceiver), MemoryCamera(wanted)
    gray = image(perceiver.info.height, perceiver.info.width, 0)[:, :, 0].astype("<u2") | 128
    for number, (values, shown) in enumerate([(gray << 4, gray), (gray >> 2, gray >> 6), (gray << 4, gray)]):
        pipeline.offer(camera, message(values, "mono16"), 0)
        camera.wait(lambda n=number: len(camera.delivered) > n)
        frame, _ = camera.delivered[-1]
        np.testing.assert_array_equal(frame.image.input[:, :, 1], shown)


def test_frames_that_wait_together_are_one_batch_and_an_absent_camera_delays_none(
    gated: Perceiver, run: Callable[[Perceiver], Pipeline]
) -> None:
    pipeline, backend = run(gated), gated.backend
    cameras = [MemoryCamera() for _ in range(4)]  # the last sends nothing
    images = [image(40, 60, number) for number in range(3)]
    pipeline.offer(cameras[0], message(images[0], "rgb8"), 0)
    backend.entered.acquire(timeout=20)
    for camera, rgb in zip(cameras, images, strict=False):
        pipeline.offer(camera, message(rgb, "rgb8"), 0)
    # Frames are prepared in order: once the last is, the others wait for the engine.
    last = MemoryCamera(wanted=())
    pipeline.offer(last, message(images[0], "rgb8"), 0)
    last.wait(lambda: last.asked)
    backend.gate.release(2)
    cameras[0].wait(lambda: cameras[0].accounted() == 2)
    for camera in cameras[1:3]:
        camera.wait(lambda c=camera: c.delivered)
    assert backend.batches == [1, 3]
    for camera, rgb in zip(cameras, images, strict=False):
        expected = Perceiver(gated.info, backend._backend)(rgb).mask
        np.testing.assert_array_equal(camera.delivered[-1][1].mask, expected)
    assert cameras[3].accounted() == 0


def test_slow_delivery_never_delays_the_next_inference(gated: Perceiver, run: Callable[[Perceiver], Pipeline]) -> None:
    pipeline, camera, backend = run(gated), MemoryCamera(), gated.backend
    camera.may_deliver.clear()
    backend.gate.release(100)
    for _ in range(5):  # the first is being delivered all the while
        pipeline.offer(camera, message(image(40, 60), "rgb8"), 0)
        assert backend.entered.acquire(timeout=20)
    camera.may_deliver.set()
    camera.wait(lambda: camera.accounted() == 5)
    assert camera.count_superseded > 0


def test_every_frame_is_delivered_or_superseded_or_failed(student: Path, run: Callable[[Perceiver], Pipeline]) -> None:
    pipeline = run(Perceiver.load(student, "onnxruntime"))
    cameras = [MemoryCamera() for _ in range(3)]
    good, bad = message(image(480, 640), "rgb8"), message(image(480, 640), "rgb8")
    bad.step = 3
    for number in range(200):
        for camera in cameras:
            pipeline.offer(camera, bad if number % 10 == 0 else good, 0)
    for camera in cameras:
        camera.wait(lambda c=camera: c.delivered)  # none starves
    pipeline.stop()
    assert [camera.accounted() for camera in cameras] == [200] * 3
    assert all("step" in sentence for camera in cameras for sentence in camera.sentences)


def test_a_frame_on_its_way_keeps_its_student_when_another_takes_over(
    gated: Perceiver, student: Path, run: Callable[[Perceiver], Pipeline]
) -> None:
    pipeline, camera, other, backend = run(gated), MemoryCamera(), MemoryCamera(), gated.backend
    following = Perceiver.load(student, "onnxruntime")
    pipeline.offer(camera, message(image(40, 60, 1), "rgb8"), 0)
    backend.entered.acquire(timeout=20)
    pipeline.use(following, MaskParameters())
    pipeline.offer(other, message(image(40, 60, 2), "rgb8"), 0)
    backend.gate.release()
    camera.wait(lambda: camera.delivered)
    other.wait(lambda: other.delivered)
    assert camera.delivered[0][0].perceiver is gated
    assert other.delivered[0][0].perceiver is following
    assert backend.batches == [1]


def test_a_student_is_gone_once_its_last_frame_is_delivered(
    student: Path, run: Callable[[Perceiver], Pipeline]
) -> None:
    """Without Python's cyclic collector, and without a further frame."""
    gc.disable()
    try:
        perceiver, camera = Perceiver.load(student, "onnxruntime"), MemoryCamera()
        engine, pipeline = weakref.ref(perceiver.backend), run(perceiver)
        pipeline.offer(camera, message(image(40, 60), "rgb8"), 0)
        camera.wait(lambda: camera.delivered)
        del perceiver
        camera.delivered.clear()
        pipeline.use(Perceiver.load(student, "onnxruntime"), MaskParameters())
        assert eventually(lambda: engine() is None)  # the stages are just finishing with the frame
        stopped = weakref.ref(Pipeline(Perceiver.load(student, "onnxruntime"), MaskParameters()))
        assert stopped() is not None
        stopped().stop()
        assert stopped() is None
    finally:
        gc.enable()


def test_a_failing_engine_is_reported_and_tried_again(gated: Perceiver, run: Callable[[Perceiver], Pipeline]) -> None:
    class Failing:
        description = "failing"
        fail = True

        def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
            if self.fail:
                raise RuntimeError("out of memory")
            return gated.backend._backend(images, outputs)

    backend = Failing()
    pipeline, camera = run(Perceiver(gated.info, backend)), MemoryCamera()
    pipeline.offer(camera, message(image(40, 60), "rgb8"), 0)
    camera.wait(lambda: camera.sentences)
    assert len(camera.sentences) == 1
    assert "RuntimeError: out of memory" in camera.sentences[0]
    backend.fail = False
    pipeline.offer(camera, message(image(40, 60), "rgb8"), 0)
    camera.wait(lambda: camera.delivered)


def test_a_frame_that_nobody_wants_is_not_computed(gated: Perceiver, run: Callable[[Perceiver], Pipeline]) -> None:
    pipeline, camera, backend = run(gated), MemoryCamera(wanted=()), gated.backend
    pipeline.offer(camera, message(image(40, 60), "rgb8"), 0)
    pipeline.stop()
    assert backend.batches == []
    assert not camera.delivered


def test_the_engine_makes_the_colors_once_and_only_if_a_camera_wants_them(
    student: Path, run: Callable[[Perceiver], Pipeline]
) -> None:
    """All in the thread that infers, since only one thread at a time may call an engine."""
    loaded = Perceiver.load(student, "onnxruntime")
    threads: list[str] = []

    class WatchedBackend:
        description = "watched"

        def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
            threads.append(threading.current_thread().name)
            return loaded.backend(images, outputs)

    perceiver = Perceiver(loaded.info, WatchedBackend())
    pipeline = run(perceiver)
    plain, colored = MemoryCamera(["features"]), MemoryCamera(["features", COLORS])
    for camera, runs in ((plain, 1), (colored, 6), (colored, 7)):
        count = len(camera.delivered)
        pipeline.offer(camera, message(image(32, 48), "rgb8"), 0)
        camera.wait(lambda camera=camera, count=count: len(camera.delivered) > count)
        assert threads == ["infer"] * runs
