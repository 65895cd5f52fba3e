"""What the TensorRT backend needs from CUDA, through cuda-python: the device, a stream, memory and graphs."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError


@dataclass(frozen=True)
class Device:
    """The GPU that CUDA lists first; CUDA_VISIBLE_DEVICES selects another."""

    name: str
    capability: str
    """Compute capability, such as 8.6."""
    driver: str
    """Latest CUDA version that the driver supports, such as 12.6."""


class CudaError(UserError):
    """A CUDA call failed; `words` is CUDA's own message."""

    def __init__(self, function: str, words: str) -> None:
        super().__init__(f"{function} failed ({words}): check the GPU and its free memory with nvidia-smi.")
        self.words = words


def load_runtime() -> Any:
    """The CUDA runtime module of cuda-python. Raises UserError if it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UserError("cuda-python is not installed: pip install cuda-bindings, of the driver's version.") from error
    return runtime


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its result, if it has one. Raises CudaError."""
    status, *results = function(*arguments)
    if int(status):
        raise CudaError(function.__name__, load_runtime().cudaGetErrorString(status)[1].decode())
    return results[0] if results else None


def find_device() -> Device:
    """Find the GPU. Raises UserError if CUDA can use none."""
    cuda = load_runtime()
    try:
        call(cuda.cudaSetDevice, 0)
        properties = call(cuda.cudaGetDeviceProperties, 0)
        version = call(cuda.cudaDriverGetVersion)
    except CudaError as error:
        raise UserError(
            f"There is no CUDA device on this machine ({error.words}): check its driver, or use it without a GPU."
        ) from error
    return Device(
        name=properties.name.decode(),
        capability=f"{properties.major}.{properties.minor}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )


class PairedBuffer:
    """Memory for one tensor [B, ...] at the largest batch, on the device and pinned on the host."""

    host: NDArray[Any]

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        cuda = load_runtime()
        self._item_bytes: int = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        size = shape[0] * self._item_bytes
        self.host_address = int(call(cuda.cudaMallocHost, size))
        weakref.finalize(self, cuda.cudaFreeHost, self.host_address)
        self.device_address = int(call(cuda.cudaMalloc, size))
        weakref.finalize(self, cuda.cudaFree, self.device_address)
        memory = (ctypes.c_uint8 * size).from_address(self.host_address)
        self.host = np.frombuffer(memory, dtype=dtype).reshape(shape)
        """The host's side: upload from it, download into it. Valid as long as this object."""

    def bytes_of(self, batch: int) -> int:
        """Size of the first `batch` items, in bytes."""
        return batch * self._item_bytes


class Stream:
    """A CUDA stream: work queued on it runs in order, while the caller goes on."""

    def __init__(self) -> None:
        self._cuda = load_runtime()
        self._stream = call(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        self.handle = int(self._stream)
        """For TensorRT."""
        weakref.finalize(self, self._cuda.cudaStreamDestroy, self._stream)

    def upload(self, buffer: PairedBuffer, batch: int) -> None:
        """Copy the first `batch` items of a buffer from the host to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(buffer.device_address, buffer.host_address, buffer.bytes_of(batch), kind)

    def download(self, buffer: PairedBuffer, batch: int) -> None:
        """Copy the first `batch` items of a buffer from the device to the host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(buffer.host_address, buffer.device_address, buffer.bytes_of(batch), kind)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        call(self._cuda.cudaMemcpyAsync, target, source, size, kind, self._stream)

    def wait(self) -> None:
        """Wait until all queued work is done."""
        call(self._cuda.cudaStreamSynchronize, self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that `work` queues, without running it; returns a function that queues all of it at once.

        Raises UserError if it cannot be recorded; the stream stays usable.
        """
        cuda = self._cuda
        # Only this thread's calls: another may load a second engine meanwhile.
        call(cuda.cudaStreamBeginCapture, self._stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
            graph = call(cuda.cudaStreamEndCapture, self._stream)
        except UserError:
            cuda.cudaStreamEndCapture(self._stream)  # does nothing if the capture has ended
            cuda.cudaGetLastError()  # or TensorRT would take the error for one of its own
            raise
        executable = call(cuda.cudaGraphInstantiate, graph, 0)
        call(cuda.cudaGraphDestroy, graph)

        def replay() -> None:
            call(cuda.cudaGraphLaunch, executable, self._stream)

        weakref.finalize(replay, cuda.cudaGraphExecDestroy, executable)
        return replay
