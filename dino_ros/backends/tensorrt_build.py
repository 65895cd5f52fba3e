"""Building TensorRT engines: with TensorRT 10.3 to 11 and with TensorRT-RTX 1, which share one Python interface."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.student import StudentInfo

log = logging.getLogger(__name__)

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""The two variants: Python module and product name."""
RTX = "tensorrt_rtx"
"""The variant that builds for any GPU on any machine; the other one builds for the GPU of this machine."""
INSTALL = {"tensorrt": "docs/jetson.md says how", "tensorrt_rtx": "pip install tensorrt-rtx-cu13"}


class Variant:
    """TensorRT or TensorRT-RTX, with its Python module loaded."""

    def __init__(self, name: str, trt: Any) -> None:
        self.name = name
        self.trt = trt
        self.title = f"{TITLES[name]} {trt.__version__}"
        self.errors: list[str] = []
        """TensorRT's error messages since this list was last cleared."""
        # TensorRT keeps the first logger that it gets, for the whole process.
        self.logger = _make_logger(trt, self.errors)

    def why(self) -> str:
        """First line of TensorRT's first error message, to quote in a sentence; clears `errors`."""
        lines = self.errors[0].strip().splitlines() if self.errors else []
        self.errors.clear()
        return lines[0].rstrip(".") if lines else "it gives no reason"

    def capabilities(self) -> dict[str, Any]:
        """Compute capabilities that TensorRT-RTX can build for, such as 8.6, with its constants for them."""
        members = self.trt.ComputeCapability.__members__
        return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}


def require(name: str) -> None:
    """Raise UserError unless the variant's Python module is installed; does not load it."""
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{TITLES[name]} is not installed: {INSTALL[name]}.")


@cache
def load_variant(name: str) -> Variant:
    """Load the variant's Python module. Raises UserError if it is missing or incomplete."""
    require(name)
    try:
        return Variant(name, importlib.import_module(name))
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise UserError(f"{TITLES[name]} cannot be loaded ({error}): {INSTALL[name]}.") from error


def build_engine(
    variant: Variant, path: Path, info: StudentInfo, largest_batch: int, capability: str, report: Report
) -> bytes:
    """Build a student's engine for batches of 1 to `largest_batch`; returns its bytes.

    `capability` is the compute capability to build for, such as 8.6; TensorRT always builds for the GPU of this machine
    and takes its. `report` receives progress. The network is strongly typed: each layer computes in the precision that
    the student file gives it. Raises UserError if the student has an operator that TensorRT does not support, if
    TensorRT-RTX does not support the capability, or if the build fails.
    """
    trt = variant.trt
    variant.errors.clear()
    builder = trt.Builder(variant.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, variant.logger)
    if not parser.parse(path.read_bytes()):
        raise UserError(
            f"{variant.title} cannot parse {path.name}: {_parser_error(parser)}. Export it again with this "
            "version of dino_ros, or use another backend."
        )
    config = builder.create_builder_config()
    if variant.name == RTX:
        targets = variant.capabilities()
        if capability not in targets:
            raise UserError(
                f"{variant.title} builds for the compute capabilities {', '.join(targets)}, not for {capability}: use "
                "TensorRT on that GPU."
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(targets[capability], 0)
    profile = builder.create_optimization_profile()
    image = (info.height, info.width, 3)
    # Tuned for the largest batch: batches are full when frames come faster than they are processed, when speed counts.
    profile.set_shape("images", (1, *image), (largest_batch, *image), (largest_batch, *image))
    config.add_optimization_profile(profile)
    what = f"Building the {variant.title} engine of {path.name} for compute capability {capability}"
    if variant.name != RTX:
        what += ", which takes minutes the first time"
    monitor = _make_monitor(trt, BuildProgress(), what, report)  # in a variable: it has to outlive the build
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(
            f"{variant.title} cannot build an engine of {path.name} ({variant.why()}): use another backend."
        )
    return bytes(engine)


class BuildProgress:
    """How far a build is, from TensorRT's phases, which have steps and nest."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps in all, steps done
        self._fraction = 0.0
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> float:
        """A phase begins. Returns the share of the build that is done, 0 to 1, which never falls."""
        with self._lock:
            self._phases[phase] = (parent, steps, 0)
            return self._done()

    def step(self, phase: str, step: int) -> float:
        """A step of a phase, counted from 0, is done. Returns what `start` does."""
        with self._lock:
            if phase in self._phases:
                parent, steps, _ = self._phases[phase]
                self._phases[phase] = (parent, steps, step + 1)
            return self._done()

    def finish(self, phase: str) -> float:
        """A phase ends, with or without all its steps done. Returns what `start` does."""
        with self._lock:
            parent, _, _ = self._phases.pop(phase, (None, 1, 1))
            if parent is None and not self._phases:
                self._fraction = 1.0
            return self._done()

    def _done(self) -> float:
        outermost = [self._share(phase) for phase, (parent, _, _) in self._phases.items() if parent is None]
        self._fraction = max(self._fraction, *outermost, 0.0)
        return self._fraction

    def _share(self, phase: str) -> float:
        _, steps, done = self._phases[phase]
        inner = [self._share(name) for name, (parent, _, _) in self._phases.items() if parent == phase]
        return min(1.0, (done + max(inner, default=0.0)) / max(steps, 1))


def _make_logger(trt: Any, errors: list[str]) -> Any:
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                errors.append(message)
            log.debug("%s: %s", severity, message)

    return Logger()


def _make_monitor(trt: Any, progress: BuildProgress, what: str, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):
        """TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._reported = -1
            self._started = time.monotonic()
            self._lock = threading.Lock()

        def _tell(self, fraction: float) -> None:
            with self._lock:
                tenths = int(fraction * 10)
                if tenths > self._reported:
                    self._reported = tenths
                    seconds = time.monotonic() - self._started
                    report(f"{what}: {tenths * 10} % after {seconds:.0f} s")

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(progress.start(phase_name, parent_phase, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            self._tell(progress.finish(phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(progress.step(phase_name, step))
            return True

    return Monitor()


def _parser_error(parser: Any) -> str:
    """The parser's first error, as part of a sentence."""
    if not parser.num_errors:
        return "it is not an ONNX file"
    error = parser.get_error(0)
    lines = [line.rstrip(".") for line in error.desc().strip().splitlines() if line]
    # The first line says that the node is invalid, the next one why.
    reason = lines[1] if len(lines) > 1 else "".join(lines)
    return f"{error.node_operator() or 'the file'} {error.node_name()} ({reason})"
