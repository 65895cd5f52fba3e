"""Plays a recording through a student, without ROS, as long as somebody looks."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Any

import numpy as np

from dino_ros.errors import UserError
from dino_ros.images.sources import Frame, Source
from dino_ros.images.stamps import SECOND
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver, Perception, PreparedImage, Request
from dino_ros.view.scene import LOOKED_AT, Found, Place, PointedOut, Scene
from dino_ros.view.teaching import Teaching

log = logging.getLogger(__name__)

LONGEST_PAUSE = 3.0
"""Seconds that are played of a longer pause in a recording."""
OUTPUTS = ("features", "attention", "mask", "objects")
SENT_KEPT = 4
"""Latest scenes that pages got, in which objects can be pointed out: what a page shows is a little old."""


class Player:
    """Frames of a source in a thread, again and again, none left out; a student that is too slow slows it down."""

    recording = True

    def __init__(self, source: Source, perceiver: Perceiver, teaching: Teaching) -> None:
        self.name = source.name
        self._source = source
        self._perceiver = perceiver
        self._teaching = teaching
        self._engine = threading.Lock()
        """Held while the engine runs or taught objects are used, by one thread at a time; taken before the condition.
        """
        self._condition = threading.Condition()
        self._scene: Scene | None = None
        self._sent: OrderedDict[int, Scene] = OrderedDict()
        self._mask = MaskParameters()
        self._maker = MaskMaker()
        self._current: tuple[dict[str, Any], PreparedImage] | None = None
        """What the student said of the frame in view, for other masks of it."""
        self._looked_at = -LOOKED_AT
        self._paused = self._stopped = False
        self._steps = 0
        self._unusable = 0
        self._why = f"playing {source.name}"
        self._times: deque[float] = deque(maxlen=30)
        self._latencies: deque[float] = deque(maxlen=30)
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)
        self._thread.start()

    def scene(self, after: int, seconds: float, layers: Collection[str]) -> Scene | None:
        """All layers are made, so that a frame in view can be looked at in any way."""
        with self._condition:
            self._looked_at = time.monotonic()
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._stopped or self._newer(after), seconds)
            self._looked_at = time.monotonic()
            if self._scene is None or not self._newer(after):
                return None
            self._sent[self._scene.number] = self._scene
            while len(self._sent) > SENT_KEPT:
                self._sent.popitem(last=False)
            return self._scene

    def status(self) -> dict[str, str]:
        with self._condition:
            times, latencies = list(self._times), list(self._latencies)
            unusable, paused = self._unusable, self._paused
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        return {
            "rate": "paused" if paused else f"{rate:.1f} Hz",
            "latency": f"{np.median(latencies) * 1e3:.0f} ms" if latencies else "",
            "dropped": f"{unusable} unusable",
            "student": self._perceiver.path.stem,
            "engine": self._perceiver.chosen,
        }

    def learner(self) -> dict[str, str]:
        return {}

    def waiting_for(self) -> str:
        with self._condition:
            return self._why

    def parameters(self) -> dict[str, Any]:
        with self._condition:
            return {f"mask_{name}": value for name, value in dataclasses.asdict(self._mask).items()}

    def set_parameters(self, values: dict[str, Any]) -> None:
        with self._engine, self._condition:
            fields = {name.removeprefix("mask_"): value for name, value in values.items()}
            mask = dataclasses.replace(self._mask, **fields)
            self._perceiver.request(OUTPUTS, mask)
            self._mask = mask
            self._see_again()

    def taught(self) -> dict[str, int]:
        return {name: len(looks) for name, looks in self._teaching.looks.items()}

    def point_out(self, number: int, place: Place) -> PointedOut:
        with self._condition:
            scene = self._sent.get(number)
        if scene is None:
            raise UserError("This frame is gone: point the object out again.")
        assert scene.features is not None
        with self._engine:
            return self._teaching.point_out(scene.rgb, scene.features, place)

    def teach(self, number: int, name: str, shows_it: bool) -> None:
        with self._engine, self._condition:
            self._teaching.teach(number, name, shows_it)
            self._see_again()

    def undo(self, name: str) -> None:
        with self._engine, self._condition:
            self._teaching.undo(name)
            self._see_again()

    def forget(self, name: str) -> None:
        with self._engine, self._condition:
            self._teaching.forget(name)
            self._see_again()

    def paused(self) -> bool:
        with self._condition:
            return self._paused

    def pause(self, paused: bool) -> None:
        with self._condition:
            self._paused, self._steps = paused, 0
            self._condition.notify_all()

    def step(self) -> None:
        with self._condition:
            self._paused = True
            self._steps += 1
            self._condition.notify_all()

    def close(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._thread.join()  # Python would end it amid the engine, which aborts the process

    def _newer(self, after: int) -> bool:
        return self._scene is not None and self._scene.number > after

    def _wanted(self) -> bool:
        """Whether to play on."""
        looked_at = time.monotonic() - self._looked_at < LOOKED_AT
        return self._stopped or self._steps > 0 or (looked_at and not self._paused)

    def _play(self) -> None:
        try:
            while not self._stopped:
                usable = self._play_once()
                if not usable and not self._stopped:
                    raise UserError(f"{self.name} has no frame that can be used: see the log, and give another one.")
        except UserError as error:
            log.error("%s", error)
            with self._condition:
                self._why = str(error)

    def _play_once(self) -> int:
        """Play from the start; returns how many frames could be used."""
        usable = 0
        self._maker = MaskMaker()
        before: Frame | None = None
        due = time.monotonic()
        for frame in self._source:
            if before is not None:
                due += min(max(frame.time - before.time, 0) / SECOND, LONGEST_PAUSE)
            before = frame
            with self._condition:
                self._condition.wait_for(self._wanted)
                while not self._stopped and not self._steps and (left := due - time.monotonic()) > 0:
                    self._condition.wait(left)
                    self._condition.wait_for(self._wanted)
                if self._stopped:
                    return usable
                due = max(due, time.monotonic() - LOOKED_AT / 10)  # what was missed is not caught up with
                self._steps = max(0, self._steps - 1)
            try:
                self._see(frame)
                usable += 1
            except UserError as error:
                log.warning("left out: %s", error)
                with self._condition:
                    self._unusable += 1
        return usable

    def _see(self, frame: Frame) -> None:
        start = time.monotonic()
        rgb = frame.rgb()
        image = self._perceiver.prepare_image(rgb, frame.stamp)
        with self._engine:
            request = self._request()
            result = self._perceiver.infer([image.input], sorted(request.student_outputs))[0]
            feature_colors = self._perceiver.feature_colors  # the first time it runs the engine
            seen = self._perceiver.finish(result, image, request, self._maker, self._teaching.finder())
        assert seen.features is not None
        colors = feature_colors.rgb(seen.features)
        with self._condition:
            self._current = result, image
            number = self._scene.number + 1 if self._scene else 1
            self._scene = Scene(
                number, frame.stamp, rgb, seen.mask, seen.objects, seen.attention, seen.features, colors, _found(seen)
            )
            now = time.monotonic()
            self._times.append(now)
            self._latencies.append(now - start)
            self._condition.notify_all()

    def _see_again(self) -> None:
        """Look at a paused frame with other parameters or objects; takes both locks."""
        if not (self._paused and self._current and self._scene):
            return
        result, image = self._current
        request = self._request()
        if missing := request.student_outputs - result.keys():
            result.update(self._perceiver.infer([image.input], sorted(missing))[0])
        seen = self._perceiver.finish(result, image, request, MaskMaker(), self._teaching.finder())
        number = self._scene.number + 1
        self._scene = dataclasses.replace(
            self._scene, number=number, mask=seen.mask, objects=seen.objects, taught=_found(seen)
        )
        self._condition.notify_all()

    def _request(self) -> Request:
        return dataclasses.replace(self._perceiver.request(OUTPUTS, self._mask), looks=self._teaching.looks)


def _found(seen: Perception) -> dict[str, Found]:
    return {name: Found(sighting.mask, sighting.score) for name, sighting in seen.taught.items()}
