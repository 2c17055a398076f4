"""TensorRT's builder as far as this toolchain calls it, in Python: what a test wants happens within a callback.

Like the bindings, it drops whatever a callback raises and goes on. It builds `PLAN` from any graph.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aigc_export.targets.tensorrt.library import Library

PLAN = b"plan" * 1000
LAYERS = "Layers:\nName: conv, LayerType: correlation, Inputs: [ { Datatype: Float }, { Datatype: Float }], Outputs: ["
INSPECTED = '{"Layers": [{"Name": "conv", "LayerType": "CaskConvolution", "Weights": {"Type": "Float"}}]}'
_NUMBERS = itertools.count()


def _nothing() -> None: ...


class ComputeCapability(enum.Enum):
    """Those that engines are built for here."""

    SM75 = 1
    SM86 = 2
    SM89 = 3


@dataclass(kw_only=True)
class FakeTensorRT:
    """The module of TensorRT-RTX, or of classic TensorRT.

    Attributes:
        ahead_of_time: which of the two.
        streams: whether it has a builder that writes to a stream.
        on: "log" | "write" | "step" | "build" -> called there, where what it raises is dropped.
        says: messages of severity error while it builds.
        chunks: what it hands to the stream.
        builds: whether it says so in the end.
        steps: of progress that were made.
        cache: bytes of the timing cache after a build.
        held: bytes of the timing cache before it.
        made: networks and parsers.
    """

    ahead_of_time: bool = True
    streams: bool = True
    on: dict[str, Callable[[], object]] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    chunks: tuple[Any, ...] = (PLAN,)
    builds: bool = True
    steps: int = 0
    cache: bytes = b"measured"
    held: bytes | None = None
    made: list[weakref.ref[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.__name__ = f"fake_tensorrt_{next(_NUMBERS)}"
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
        self.IStreamWriter = type("IStreamWriter", (), {"__init__": lambda self: None})
        self.BuilderFlag = SimpleNamespace()
        self.NetworkDefinitionCreationFlag = SimpleNamespace()
        self.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
        self.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
        self.LayerType = SimpleNamespace(DEQUANTIZE=1)
        self.LayerInformationFormat = SimpleNamespace(JSON=1)
        if self.ahead_of_time:
            self.ComputeCapability = ComputeCapability

    @property
    def library(self) -> Library:
        """What the builder takes."""
        return Library(
            flavor="tensorrt-rtx" if self.ahead_of_time else "tensorrt", module=self, version="0", cuda_major=None
        )

    def call(self, what: str, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call back as bindings do."""
        with contextlib.suppress(BaseException):
            self.on.get(what, _nothing)()
            return callback(*arguments)
        return None

    def remember(self, made: Any) -> Any:
        """Hold it weakly, as the library does."""
        self.made.append(weakref.ref(made))
        return made

    # The module's own names

    def Builder(self, logger: Any) -> Any:
        self.logger = logger
        self.call("log", logger.log, "Severity.INFO", "hello")
        calls: dict[str, Any] = {
            "create_network": lambda flags: self.remember(FakeNetwork()),
            "create_builder_config": lambda: FakeConfig(self),
            "create_optimization_profile": lambda: SimpleNamespace(set_shape=lambda *shape: None),
        }
        calls |= {"build_serialized_network": lambda network, config: self.plan(config)}
        if self.streams:
            calls |= {"build_serialized_network_to_stream": lambda network, config, to: self.stream(config, to)}
        return SimpleNamespace(**calls)

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(path: str) -> bool:
            self.call("log", logger.log, "Severity.INFO", f"parsing {path}")
            return True

        return self.remember(FakeParser(parse_from_file=parse))

    def Runtime(self, logger: Any) -> Any:
        def opened(data: bytes) -> Any:
            inspector = SimpleNamespace(get_engine_information=lambda form: INSPECTED)
            context = SimpleNamespace(set_input_shape=lambda *shape: None)
            return SimpleNamespace(create_execution_context=lambda: context, create_engine_inspector=lambda: inspector)

        return SimpleNamespace(deserialize_cuda_engine=opened)

    # Building

    def work(self, config: FakeConfig) -> bool:
        """Tell, and take ten steps unless the monitor says stop."""
        self.on.get("build", _nothing)()
        for text in self.says:
            self.call("log", self.logger.log, "Severity.ERROR", text)
        self.call("step", config.progress_monitor.phase_start, "building", None, 10)
        for step in range(10):
            self.steps = step + 1
            if self.call("step", config.progress_monitor.step_complete, "building", step) is False:
                return False
        self.call("log", self.logger.log, "Severity.VERBOSE", LAYERS)
        return self.builds

    def plan(self, config: FakeConfig) -> bytes | None:
        """The engine in one piece."""
        return b"".join(self.chunks) if self.work(config) else None

    def stream(self, config: FakeConfig, to: Any) -> bool:
        """The engine into a stream; it does not look at what the stream took."""
        built = self.work(config)
        for chunk in self.chunks if built else ():
            self.call("write", to.write, chunk)
        return built


class FakeNetwork:
    """Of no layer; may be referenced weakly."""

    num_layers = 0


class FakeParser(SimpleNamespace):
    """May be referenced weakly."""


class FakeConfig:
    """Takes every setting."""

    def __init__(self, module: FakeTensorRT) -> None:
        self.module = module
        self.progress_monitor: Any = None

    def set_compute_capability(self, member: Any, index: int) -> bool:
        return True

    def set_memory_pool_limit(self, pool: Any, size: int) -> None: ...

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def create_timing_cache(self, held: bytes) -> Any:
        self.module.held = held
        return self

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.module.cache)
