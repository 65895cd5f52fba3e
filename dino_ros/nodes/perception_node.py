"""The lifecycle node: camera images in, what a student sees in them out. The pipeline does the work."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from dino_ros.errors import UserError
from dino_ros.masks.parameters import MaskParameters
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import CameraTopics
from dino_ros.nodes.diagnostics import Diagnostics
from dino_ros.nodes.distributions import after_parameters_are_set
from dino_ros.nodes.managed_node import ManagedNode, manage
from dino_ros.nodes.parameters import PERCEPTION_PARAMETERS, why_refused
from dino_ros.nodes.taught_topics import TAUGHT_OBJECTS, say_looks
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pipeline import Pipeline
from dino_ros.taught.looks import Look
from dino_ros.taught.object_files import TaughtObjects, objects_folder


class PerceptionNode(ManagedNode):
    """Publishes what a student sees in the images of one or more cameras, in the namespace /dino unless remapped.

    Configuring loads the student, activating starts the pipeline. Only the newest frame of each camera is processed,
    only results with subscribers are computed, and a camera whose results have none is not subscribed to. A frame that
    cannot be used is skipped with a warning. Raises UserError for a parameter that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("perception", PERCEPTION_PARAMETERS)
        self._perceiver: Perceiver | None = None
        self._next: Perceiver | None = None
        self._pipeline: Pipeline | None = None
        self._cameras: list[CameraTopics] = []
        self._camera_callbacks = CallbackThread(self)
        self._loading = threading.RLock()
        """Held while a transition or a parameter loads a student."""
        self._switching = threading.Lock()
        """Held while a student takes another's place or is released; never for long."""
        self._objects: TaughtObjects | None = None
        self._teaching = threading.Lock()
        """Held while the taught objects change."""
        self._unconfigured = Diagnostics()
        self.add_on_set_parameters_callback(self._check_parameters)
        after_parameters_are_set(self, self._take_parameters)
        self.create_service(Trigger, "~/forget", self._on_forget)
        self.create_service(Trigger, "~/undo", self._on_undo)

    def _configure(self) -> None:
        with self._loading:
            perceiver = self._load(self._value("model"), [])
            compressed = self._value("image_transport") == "compressed"
            reliability, intensity = self._value("reliability"), self._value("intensity_16uc1")
            for name in self._value("cameras"):
                self._cameras.append(
                    CameraTopics(self, name, compressed, reliability, self._camera_callbacks, self._learn, intensity)
                )
            self._perceiver = perceiver
            self._remember(perceiver)
        self._take_parameters([])
        self.get_logger().info(f"Loaded {perceiver.path.name} ({perceiver.info.architecture}) on {perceiver.chosen}.")
        self.get_logger().info(f"This student is good for: {perceiver.info.purpose}.")

    def _activate(self) -> None:
        assert self._perceiver is not None  # configured before
        self._pipeline = Pipeline(
            self._perceiver,
            self._mask_parameters([], self._perceiver),
            self._value("max_image_pixels"),
            self._objects.looks if self._objects else {},
        )
        self._camera_callbacks.start()
        for camera in self._cameras:
            camera.activate(self._pipeline)
        topics = ", ".join(camera.image_topic for camera in self._cameras)
        self.get_logger().info(f"Waiting for images on {topics}.")

    def _load(self, model: str, changes: list[Parameter]) -> Perceiver:
        """Load a student for the current backend and number of cameras, and warm it up for the masks after `changes`.

        Raises UserError, also where these do not suit the student.
        """
        self._state, before = "loading the student", self._state
        try:
            largest_batch = len(self._value("cameras"))
            perceiver = Perceiver.load(model, self._value("backend"), largest_batch, self._tell)
            for engine, reason in perceiver.passed_over.items():
                self.get_logger().debug(f"Not on {engine}: {reason}")
            self._state = "warming up"
            perceiver.warm_up(largest_batch, self._mask_parameters(changes, perceiver))
            return perceiver
        finally:
            self._state = before

    def _tell(self, sentence: str) -> None:
        """Show a slow step of loading a student in the diagnostics and the log."""
        self._state = sentence
        self.get_logger().info(sentence, throttle_duration_sec=5.0)

    def stop(self) -> None:
        """Unsubscribe from the cameras and end the threads; the student and the topics stay."""
        for camera in self._cameras:
            camera.deactivate()
        self._camera_callbacks.stop()
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None

    def _release(self) -> None:
        self.stop()
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        with self._switching:
            self._perceiver = self._next = self._objects = None

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Whether the new values can be taken; a new student is loaded here, while the old one keeps running."""
        models = [parameter.value for parameter in parameters if parameter.name == "model"]
        # Only a new model waits for a student that is being loaded; other parameters can be set meanwhile.
        with self._loading if models else contextlib.nullcontext():
            self._next = None
            kept = {row.name: self._value(row.name) for row in PERCEPTION_PARAMETERS}
            reason = why_refused(parameters, kept, configured=self._perceiver is not None)
            if not reason:
                try:
                    following = self._load(models[0], parameters) if models and self._perceiver is not None else None
                    self._mask_parameters(parameters, following or self._perceiver)
                    self._next = following
                except Exception as error:  # raised from here it would end the node
                    reason = self._sentence("Setting the parameter", error)
            return SetParametersResult(successful=not reason, reason=reason)

    def _take_parameters(self, parameters: list[Parameter]) -> None:
        with self._switching:
            following, self._next = self._next, None
            switched = following is not None and self._perceiver is not None  # not if it was cleaned up meanwhile
            if switched:
                self._perceiver = following
            if self._pipeline is not None and self._perceiver is not None:
                mask = self._mask_parameters([], self._perceiver)
                looks = self._objects.looks if self._objects and not switched else {}
                self._pipeline.use(self._perceiver, mask, self._value("max_image_pixels"), looks)
        if following is not None and switched:
            self._remember(following)
            self.get_logger().info(f"Switched to {following.path.name} on {following.chosen}.")
        for camera in self._cameras:
            camera.throttle.max_rate = self._value("max_rate")
            camera.throttle.decimation = self._value("input_decimation")

    def _remember(self, perceiver: Perceiver) -> None:
        """Look for the objects that were taught for a student."""
        with self._teaching:
            folder = objects_folder(self._value("taught_folder"))
            self._objects = TaughtObjects.load(folder, perceiver.info, perceiver.path)
            for sentence in self._objects.refused:
                self.get_logger().warning(sentence)
            self._find(self._objects)
            if self._objects.looks:
                self.get_logger().info(f"Remembers {', '.join(self._objects.looks)}, of {self._objects.folder}.")

    def _find(self, objects: TaughtObjects) -> None:
        """Look for these objects from the next frame on."""
        with self._switching:
            if self._pipeline is not None and self._perceiver is not None:
                mask = self._mask_parameters([], self._perceiver)
                self._pipeline.use(self._perceiver, mask, self._value("max_image_pixels"), objects.looks)
        for camera in self._cameras:
            camera.taught.advertise(objects.looks, active=self._pipeline is not None)

    def _learn(self, look: Look, how: str) -> str:
        """Take in a look at the object that is being taught, and say so."""
        with self._teaching:
            name, objects = self._value("teach"), self._objects
            if not name or objects is None:
                raise UserError("Nothing is being taught any more: set the parameter teach, and show it again.")
            objects.add(name, look, how)
            self._find(objects)
            count = len(objects.looks[name])
        kind = "what it is" if look.shows_it else "what it is not"
        return f"Learnt from a {how} {kind}: {name}, look {count}. See where it is on {name}/mask."

    def _on_forget(self, request: Any, response: Any) -> Any:
        """Forget the object named by `teach`."""
        return self._change_objects(response, lambda objects, name: objects.forget(name), "forgotten")

    def _on_undo(self, request: Any, response: Any) -> Any:
        """Take back the last look at the object named by `teach`."""
        return self._change_objects(response, lambda objects, name: objects.undo(name), "without its last look")

    def _change_objects(self, response: Any, change: Callable[[TaughtObjects, str], None], done: str) -> Any:
        with self._teaching:
            name, objects = self._value("teach"), self._objects
            try:
                if not name or objects is None:
                    raise UserError("No object is named: configure the node, and set the parameter teach to a name.")
                change(objects, name)
                self._find(objects)
                response.success, response.message = True, f"{name}: {done}."
            except (UserError, OSError) as error:
                response.success, response.message = False, str(error)
        return response

    def _mask_parameters(self, changes: list[Parameter], perceiver: Perceiver | None) -> MaskParameters:
        """The mask parameters after these changes. Raises UserError if they do not suit the student."""
        values = {field.name: self._value(f"mask_{field.name}") for field in dataclasses.fields(MaskParameters)}
        values |= {p.name.removeprefix("mask_"): p.value for p in changes if p.name.startswith("mask_")}
        parameters = MaskParameters(**values)
        if perceiver is not None:
            parameters.resolve(perceiver.info)
        return parameters

    def _report(self, seconds: float) -> list[DiagnosticStatus]:
        """A status for each camera, or one of a node that has none yet."""
        name = f"{self.get_fully_qualified_name()}: perception"
        facts, cameras = self._facts(), list(self._cameras)
        statuses = [
            camera.report(f"{name} {camera.name}".strip(), self._state, seconds, facts, self._failure)
            for camera in cameras
        ] or [self._unconfigured.report(name, self._state, seconds, False, {}, self._failure)]
        perceiver = self._perceiver
        for status in statuses:
            status.hardware_id = perceiver.backend.description if perceiver is not None else "none"
        return statuses

    def _facts(self) -> dict[str, str]:
        perceiver = self._perceiver
        if perceiver is None:
            return {}
        return {
            "model": str(perceiver.path),
            "architecture": perceiver.info.architecture,
            "input size": f"{perceiver.info.height}x{perceiver.info.width}",
            "backend": perceiver.chosen,
            TAUGHT_OBJECTS: say_looks(self._objects.looks if self._objects else {}),
            **{f"why not {engine}": reason for engine, reason in perceiver.passed_over.items()},
        }


def main() -> None:
    """Run the node until it is interrupted; a bad parameter is logged as one sentence, with the exit code 2."""
    manage("perception", PerceptionNode)


if __name__ == "__main__":
    main()
