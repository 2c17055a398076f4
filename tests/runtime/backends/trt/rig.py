"""TensorRT sessions over the simulated device, for the toy models whose results are known by arithmetic."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.backends.trt.library import library_of
from aigc_runtime.backends.trt.session import TrtSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.shape_profiles import ShapeProfile

from ... import toys
from .simulated_gpu import SimulatedGpu
from .simulated_tensorrt import Context, Plan, plan_of, simulated_tensorrt

PLAN = b"plan of a simulated engine"
LM_PROFILES = {
    "growing": (
        {"batch": (1, 1, 8), "kept": (1, 1, 32), "sequence": (1, 8, 32), "past": (0, 0, 32)},
        {"batch": (1, 1, 8), "kept": (1, 1, 1), "sequence": (1, 1, 1), "past": (0, 16, 32)},
    ),
    "buffer": (
        {"batch": (1, 1, 8), "kept": (1, 1, 32), "sequence": (1, 8, 32)},
        {"batch": (1, 1, 8), "kept": (1, 1, 1), "sequence": (1, 1, 1)},
    ),
}
IMAGE_PROFILES = ({"batch": (1, 1, 8)},)


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A toy model: its formula and its interface."""

    function: Any
    interface: Interface
    profiles: tuple[dict[str, tuple[int, int, int]], ...]

    def reference(self) -> ArraySession:
        """The same formula in numpy."""
        return ArraySession(self.function, self.interface)

    def plan(self, **changes: Any) -> Plan:
        """The simulated engine's plan."""
        return plan_of(self.function, self.interface, self.profiles, **changes)

    @property
    def shape_profiles(self) -> tuple[ShapeProfile, ...]:
        """What a manifest says about the profiles."""
        return tuple(ShapeProfile(name=f"profile-{i}", dims=dims) for i, dims in enumerate(self.profiles))


def lm(kind: str) -> Toy:
    return Toy(
        function=toys.lm_function,
        interface=toys.lm_session(kind).interface,
        profiles=LM_PROFILES[kind],
    )


UNET = Toy(
    function=toys.unet_function,
    interface=toys.unet_session().interface,
    profiles=IMAGE_PROFILES,
)
ALIAS = {"present_value_0": "past_value_0"}


def engine_build(profiles: tuple[ShapeProfile, ...], *, rtx: bool = False, **changes: Any) -> EngineBuild:
    facts: dict[str, Any] = {
        "flavor": "tensorrt-rtx" if rtx else "tensorrt",
        "version": "1.7.1.116" if rtx else "10.3.0",
        "cuda_major": None,
        "platform": "linux-x86_64",
        "compute_capabilities": ("8.6",),
        "hardware_compatibility": "none",
        "version_compatible": False,
        "weight_streaming": False,
        "device_memory_bytes": None,
        "profiles": profiles,
        "work": {"fp32": 1.0},
        "work_source": "engine",
    }
    return EngineBuild(**{**facts, **changes})


class Rig:
    """A session with everything around it: `gpu` and `module` tell what was done to them."""

    def __init__(
        self,
        toy: Toy,
        *,
        rtx: bool = False,
        gpu: SimulatedGpu | None = None,
        cache: Path | None = None,
        ordinal: int = 0,
        most_lanes: int = 4,
        build: dict[str, Any] | None = None,
        announced: Toy | None = None,
        **plan: Any,
    ) -> None:
        self.toy = toy
        self.gpu = gpu if gpu is not None else SimulatedGpu()
        self.plan = toy.plan(**plan)
        self.module = simulated_tensorrt(self.gpu, {PLAN: self.plan}, rtx=rtx)
        announced = announced or toy
        self.session = TrtSession(
            PLAN,
            announced.interface,
            library=library_of(self.module),
            cuda=Cuda(self.gpu, ordinal),
            build=engine_build(announced.shape_profiles, rtx=rtx, **(build or {})),
            cache=cache,
            most_lanes=most_lanes,
        )

    @property
    def engine(self) -> Any:
        return self.module.sim_engines[-1]

    @property
    def runs(self) -> int:
        """Runs that the engine was asked for one by one, captures included."""
        return int(self.engine.sim_calls.count("execute_async_v3"))

    def count(self, call: str) -> int:
        return self.gpu.calls.count(call)


def leaks(gpu: SimulatedGpu) -> list[str]:
    """What a closed session still holds."""
    gc.collect()
    return gpu.leaks() + ["an execution context" for context in Context.sim_live if context._gpu is gpu]


def lm_feeds(*rows: list[int], pad: list[int] | None = None) -> dict[str, np.ndarray]:
    return toys.lm_feeds(rows, pad)


def unet_feeds(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "sample": rng.standard_normal((batch, 1, 4, 4), dtype=np.float32),
        "timestep": rng.integers(0, 1000, batch).astype(np.float32),
        "class_labels": rng.integers(0, 4, batch),
    }
