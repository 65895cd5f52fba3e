"""A GPU in host memory: as much of cuda.bindings.runtime and TensorRT as the TensorRT backend uses.

Work queued on the stream runs only when it is waited for, as on a GPU. Without a driver, every call goes to the real
CUDA runtime first: it fails there, but refuses arguments of the wrong type before that.
"""

import ctypes
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda.bindings import runtime

from dino_ros.backends import Backend

SUCCESS = runtime.cudaError_t.cudaSuccess
SHAPES = {"images": (32, 48, 3), "features": (4, 6, 3), "attention": (3, 4, 6), "embedding": (3,)}
NO_DRIVER = bool(int(runtime.cudaGetDeviceCount()[0]))


class SimulatedCuda:
    """Stands in for the module cuda.bindings.runtime."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.waiting: list[Callable[[], None]] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.graphs: list[list[Callable[[], None]]] = []
        self.graph_launches = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        simulated = getattr(type(self), f"do_{name}", None)
        if simulated is None:  # constants, types, and cudaGetErrorString
            return real

        def function(*arguments: Any) -> tuple[Any, ...]:
            if NO_DRIVER:
                real(*arguments)
            return simulated(self, *arguments)

        function.__name__ = name
        return function

    def enqueue(self, work: Callable[[], None]) -> None:
        (self.waiting if self.capturing is None else self.capturing).append(work)

    def do_cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (SUCCESS,)

    def do_cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return SUCCESS, SimpleNamespace(name=b"Simulated GPU", major=8, minor=7)

    def do_cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return SUCCESS, 12060

    def do_cudaMalloc(self, size: int) -> tuple[Any, ...]:
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    do_cudaMallocHost = do_cudaMalloc

    def do_cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return (SUCCESS,)

    do_cudaFreeHost = do_cudaFree

    def do_cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Any) -> tuple[Any, ...]:
        assert size <= min(len(self.memory[target]), len(self.memory[source]))
        self.enqueue(lambda: ctypes.memmove(target, source, size))
        return (SUCCESS,)

    def do_cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return SUCCESS, runtime.cudaStream_t(4096)

    def do_cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        return (SUCCESS,)

    def do_cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        if self.capturing is not None:
            return (runtime.cudaError_t.cudaErrorStreamCaptureUnsupported,)
        for work in self.waiting:
            work()
        self.waiting = []
        return (SUCCESS,)

    def do_cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        self.capturing = []
        return (SUCCESS,)

    def do_cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        if self.capturing is None:
            return runtime.cudaError_t.cudaErrorIllegalState, None
        self.graphs.append(self.capturing)
        self.capturing = None
        return SUCCESS, runtime.cudaGraph_t(len(self.graphs))

    def do_cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return SUCCESS, runtime.cudaGraphExec_t(int(graph))

    def do_cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return (SUCCESS,)

    do_cudaGraphExecDestroy = do_cudaGraphDestroy

    def do_cudaGraphLaunch(self, graph: Any, stream: Any) -> tuple[Any, ...]:
        self.graph_launches += 1
        self.waiting += self.graphs[int(graph) - 1]
        return (SUCCESS,)

    def do_cudaGetLastError(self) -> tuple[Any, ...]:
        return (SUCCESS,)


class SimulatedEngine:
    """Stands in for ICudaEngine: computes with `backend`, for batches of up to `largest` images [32, 48, 3]."""

    def __init__(self, cuda: SimulatedCuda, backend: Backend, largest: int, capturable: bool = True) -> None:
        self.cuda, self.backend, self.largest, self.capturable = cuda, backend, largest, capturable
        self.enqueued = 0
        self.num_io_tensors = len(SHAPES)

    def get_tensor_name(self, number: int) -> str:
        return list(SHAPES)[number]

    def get_tensor_dtype(self, name: str) -> Any:
        return np.uint8 if name == "images" else np.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *SHAPES[name])

    def create_execution_context(self) -> "SimulatedContext":
        return SimulatedContext(self)


class SimulatedRtxEngine(SimulatedEngine):
    """Captures graphs itself, as TensorRT-RTX does since 1.2."""

    def create_runtime_config(self) -> Any:
        self.config = SimpleNamespace(cuda_graph_strategy="", dynamic_shapes_kernel_specialization_strategy="")
        return self.config

    def create_execution_context(self, config: Any) -> "SimulatedContext":  # type: ignore[override]
        assert config is self.config
        return SimulatedContext(self)


class SimulatedContext:
    """Stands in for IExecutionContext."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return name == "images" and shape[1:] == SHAPES[name] and 1 <= shape[0] <= self.engine.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *SHAPES[name])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in SHAPES

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 4096
        if self.engine.cuda.capturing is not None and not self.engine.capturable:
            return False
        self.engine.enqueued += 1
        compute = weakref.WeakMethod(self._compute)  # kernels do not keep their context alive
        self.engine.cuda.enqueue(lambda: compute()())  # type: ignore[misc]
        return True

    def _compute(self) -> None:
        images = self._tensor("images", np.uint8)
        for name, values in self.engine.backend(images, ["features", "attention", "embedding"]).items():
            self._tensor(name, np.float32)[:] = values

    def _tensor(self, name: str, dtype: Any) -> Any:
        shape = self.get_tensor_shape(name)
        memory = self.engine.cuda.memory[self.addresses[name]]
        return np.frombuffer(memory, dtype=dtype, count=int(np.prod(shape))).reshape(shape)


def simulated_variant(name: str, load: Callable[[bytes], SimulatedEngine | None]) -> Any:
    """Stands in for tensorrt_build.Variant; `load` makes an engine from its bytes."""
    errors: list[str] = []
    trt = SimpleNamespace(
        __version__="10.3.0",
        nptype=lambda dtype: dtype,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=load),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    title = f"Simulated {name} 10.3.0"
    return SimpleNamespace(name=name, trt=trt, title=title, errors=errors, logger=None, why=lambda: "out of luck")
