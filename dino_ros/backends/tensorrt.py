"""TensorRT: the engine for NVIDIA GPUs. TensorRT 10.3 to 11 (Jetson, data center) and TensorRT-RTX 1 (desktop)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.backends.cuda_device import Device, PairedBuffer, Stream, find_device
from dino_ros.backends.engine_cache import ANY_DEVICE, EngineKey, open_engine
from dino_ros.backends.tensorrt_build import RTX, Variant, build_engine, load_variant, require
from dino_ros.errors import UserError
from dino_ros.files import file_sha256
from dino_ros.student import StudentInfo, read_student


class TensorRtBackend:
    """Runs a student's engine on a GPU. Implements `Backend`.

    Everything that can be done once is done at the start: memory for the largest batch and, for every batch size, an
    execution context with fixed shapes and addresses and a CUDA graph of its kernels. A call is then one copy to the
    device, one launch, and copies of the requested outputs back.
    """

    def __init__(self, variant: Variant, engine: Any, largest_batch: int, description: str, report: Report) -> None:
        self.description = description
        self._variant = variant
        self._engine = engine
        self._largest_batch = largest_batch
        self._stream = Stream()
        self._config = self._runtime_config()
        contexts = {batch: self._context(batch) for batch in range(1, largest_batch + 1)}
        self._buffers = {name: self._buffer(name, contexts[largest_batch]) for name in self._tensors()}
        self._runs = {batch: self._launcher(context, report) for batch, context in contexts.items()}

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3]; see `Backend`. Raises UserError if the batch is too large or the GPU fails."""
        batch = len(images)
        if batch > self._largest_batch:
            raise UserError(
                f"The engine was built for batches of up to {self._largest_batch} images, not {batch}: load it anew."
            )
        np.copyto(self._buffers["images"].host[:batch], images)
        self._stream.upload(self._buffers["images"], batch)
        self._runs[batch]()
        for name in outputs:
            self._stream.download(self._buffers[name], batch)
        self._stream.wait()
        return {name: self._buffers[name].host[:batch].copy() for name in outputs}

    def _tensors(self) -> list[str]:
        return [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]

    def _runtime_config(self) -> Any:
        """Settings for TensorRT-RTX, which captures CUDA graphs and compiles kernels itself; None for TensorRT."""
        trt = self._variant.trt
        config: Any = self._engine.create_runtime_config() if hasattr(self._engine, "create_runtime_config") else None
        if not hasattr(config, "cuda_graph_strategy"):  # TensorRT, and TensorRT-RTX before 1.2
            return None
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Compile kernels for their shapes while the engine is loaded, not while the robot drives.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return config

    def _context(self, batch: int) -> Any:
        """An execution context for one batch size: a CUDA graph captured from it excludes any other use."""
        context = self._engine.create_execution_context(*([] if self._config is None else [self._config]))
        if context is None:
            raise UserError(
                f"{self._variant.title} cannot prepare the engine ({self._variant.why()}): use another backend."
            )
        image = tuple(self._engine.get_tensor_shape("images"))[1:]
        _check(context.set_input_shape("images", (batch, *image)), self._variant)
        return context

    def _buffer(self, name: str, context: Any) -> PairedBuffer:
        dtype = self._variant.trt.nptype(self._engine.get_tensor_dtype(name))
        return PairedBuffer(tuple(context.get_tensor_shape(name)), dtype)

    def _launcher(self, context: Any, report: Report) -> Callable[[], None]:
        """Warm a context up with one run; returns a function that runs it again as fast as possible."""
        variant, stream = self._variant, self._stream  # so that the functions below hold no reference to this object
        for name, buffer in self._buffers.items():
            _check(context.set_tensor_address(name, buffer.device_address), variant)

        def run() -> None:
            _check(context.execute_async_v3(stream.handle), variant)

        run()
        stream.wait()
        if self._config is not None:
            return run
        try:
            replay = stream.capture(run)
        except UserError as error:
            report(f"{variant.title} runs this student without a CUDA graph, which is slower: {error}")
            return run

        def run_graph(context: Any = context) -> None:  # keeps the context: the graph's kernels use its memory
            replay()

        return run_graph


def _check(succeeded: bool, variant: Variant) -> None:
    if not succeeded:
        raise UserError(f"{variant.title} cannot run the engine ({variant.why()}): use another backend.")


def open_tensorrt(path: Path, largest_batch: int, report: Report) -> TensorRtBackend:
    """Load a student into TensorRT; see `open_backend`. Builds the engine first if it is not in the cache."""
    return _open("tensorrt", path, largest_batch, report)


def open_tensorrt_rtx(path: Path, largest_batch: int, report: Report) -> TensorRtBackend:
    """Load a student into TensorRT-RTX; see `open_backend`. Builds the engine first if it is not in the cache."""
    return _open(RTX, path, largest_batch, report)


def engine_key(variant: Variant, path: Path, info: StudentInfo, largest_batch: int, device: Device) -> EngineKey:
    """The cache key of a student's engine for a device.

    TensorRT-RTX builds for a compute capability, so an engine built ahead of time on another machine has the same key.
    """
    return EngineKey(
        student=file_sha256(path),
        precision=info.precision,
        height=info.height,
        width=info.width,
        largest_batch=largest_batch,
        variant=variant.name,
        version=variant.trt.__version__,
        device=ANY_DEVICE if variant.name == RTX else device.name,
        capability=device.capability,
    )


def _open(name: str, path: Path, largest_batch: int, report: Report) -> TensorRtBackend:
    require(name)
    device = find_device()
    variant = load_variant(name)
    info = read_student(path)

    def load(data: bytes) -> Any:
        variant.errors.clear()
        engine = variant.trt.Runtime(variant.logger).deserialize_cuda_engine(data)
        if engine is None:
            raise UserError(f"{variant.title} cannot load it ({variant.why()}).")
        return engine

    engine, record = open_engine(
        engine_key(variant, path, info, largest_batch, device),
        f"{variant.title} engine of {path.name}",
        lambda: build_engine(variant, path, info, largest_batch, device.capability, report),
        load,
        report,
    )
    # Names the build, because each has to pass the parity gate, and the driver, which compiles what RTX runs.
    description = (
        f"{variant.title}, {device.name}, compute capability {device.capability}, CUDA {device.driver}, "
        f"{info.precision}, build {record.build}"
    )
    return TensorRtBackend(variant, engine, largest_batch, description, report)
