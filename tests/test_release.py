"""A student that is not used any more is gone at once: Python's cyclic collector is off in these tests."""

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.parameter import Parameter

from dino_ros.masks.parameters import MaskParameters
from dino_ros.nodes.perception_node import PerceptionNode
from dino_ros.perception.bench import resident_mb
from dino_ros.perception.perceiver import Perceiver

ROUNDS = 30


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Every engine that is loaded."""
    loaded: list[weakref.ref[Any]] = []
    load = Perceiver.load

    def remembered(*arguments: Any) -> Perceiver:
        perceiver = load(*arguments)
        loaded.append(weakref.ref(perceiver.backend))
        return perceiver

    monkeypatch.setattr(Perceiver, "load", remembered)
    return loaded


@pytest.fixture
def node(ros: None, student: Path) -> Iterator[PerceptionNode]:
    node = PerceptionNode()
    node.set_parameters([Parameter("model", value=str(student)), Parameter("backend", value="onnxruntime")])
    yield node
    node.stop()
    node.destroy_node()


def threads() -> int:
    """Threads of this process, the engines' own included."""
    return len(os.listdir("/proc/self/task"))


def repeat(what: Callable[[], None]) -> tuple[int, float]:
    """Do it again and again; by how much that changes the number of threads and the resident memory, MB."""
    for _ in range(3):  # until what is made once has been made
        what()
    before = threads(), resident_mb()
    for _ in range(ROUNDS):
        what()
    return threads() - before[0], resident_mb() - before[1]


def test_a_student_is_gone_when_the_node_is_cleaned_up(node: PerceptionNode, engines: list[weakref.ref[Any]]) -> None:
    def cycle() -> None:
        for transition in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate):
            transition()
            assert engines[-1]() is not None
        node.trigger_cleanup()
        assert engines[-1]() is None

    more_threads, more_memory = repeat(cycle)
    assert more_threads == 0
    assert more_memory < 5


def test_a_student_is_gone_when_another_takes_its_place(
    node: PerceptionNode, student: Path, engines: list[weakref.ref[Any]]
) -> None:
    node.trigger_configure()
    node.trigger_activate()

    def swap() -> None:
        assert node.set_parameters([Parameter("model", value=str(student))])[0].successful
        assert [engine() is not None for engine in engines[-2:]] == [False, True]

    more_threads, more_memory = repeat(swap)
    assert more_threads == 0
    assert more_memory < 5


def test_a_student_that_is_still_being_loaded_does_not_outlive_a_cleanup(
    node: PerceptionNode, student: Path, engines: list[weakref.ref[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    node.trigger_configure()
    warming, cleaned_up = threading.Event(), threading.Event()

    def warm_up(self: Perceiver, largest_batch: int, mask: MaskParameters) -> None:
        warming.set()
        assert cleaned_up.wait(timeout=20)

    monkeypatch.setattr(Perceiver, "warm_up", warm_up)
    setting = threading.Thread(target=node.set_parameters, args=([Parameter("model", value=str(student))],))
    setting.start()
    assert warming.wait(timeout=20)
    node.trigger_cleanup()
    cleaned_up.set()
    setting.join(timeout=20)
    assert [engine() for engine in engines] == [None, None]
