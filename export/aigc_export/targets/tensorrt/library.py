"""TensorRT 10, TensorRT 11 and TensorRT-RTX as one value: a module whose features are asked for by name.

No version is compared anywhere: `hasattr` says what a library can do.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from aigc_export.targets.tensorrt.log import Log, make_logger
from aigc_runtime.backends.trt.build_info import Flavor
from aigc_runtime.device.capability import capability_number
from aigc_runtime.errors import ConfigError, EngineMissingError

__all__ = ["INSTALL", "MODULES", "Library", "load_library"]

MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""flavor -> module."""

INSTALL: dict[Flavor, str] = {
    "tensorrt": "pip install 'aigc-export[tensorrt]'",
    "tensorrt-rtx": "pip install 'aigc-export[rtx]'",
}
"""flavor -> how to get it."""

_LOGS: dict[str, tuple[Any, Log]] = {}


@dataclass(frozen=True, kw_only=True)
class Library:
    """A loaded library.

    Attributes:
        flavor: which of the two it is.
        module: the module itself.
        version: of the module.
        cuda_major: CUDA version that it was built for, from the name of its distribution; None where that is silent.
    """

    flavor: Flavor
    module: Any
    version: str
    cuda_major: int | None

    @property
    def ahead_of_time(self) -> bool:
        """Whether the library builds for named devices, with no device at hand."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities to build for ahead of time; empty if the library builds for the device at hand."""
        if not self.ahead_of_time:
            return ()
        found = (re.fullmatch(r"SM(\d+)(\d)", name) for name in self.module.ComputeCapability.__members__)
        return tuple(f"{m[1]}.{m[2]}" for m in found if m is not None)

    def has_flag(self, name: str) -> bool:
        """Check whether the builder knows a flag."""
        return hasattr(self.module.BuilderFlag, name)

    def logger(self) -> tuple[Any, Log]:
        """The process's only logger of this library, with its messages.

        A library keeps the first logger that it is given for the life of the process.
        """
        if self.module.__name__ not in _LOGS:
            _LOGS[self.module.__name__] = make_logger(self.module)
        return _LOGS[self.module.__name__]

    def check_capabilities(self, wanted: tuple[str, ...]) -> None:
        """Check that the library can build for these devices.

        Raises:
            ConfigError: none where it needs some, some where it takes none, or one that it does not know; the hint
                lists those that it knows and names the target that serves the device.
        """
        if not self.ahead_of_time:
            if wanted:
                raise ConfigError(
                    "TensorRT builds for the device that it runs on and takes no --compute-capability",
                    hint="leave it out and build on the device, or use --target tensorrt-rtx",
                )
            return
        listed = ", ".join(self.capabilities)
        if not wanted:
            # Its own default builds fp8 for devices that cannot run it, and says so in a line that nobody sees.
            raise ConfigError(
                "TensorRT-RTX needs the devices to build for",
                hint=f"add --compute-capability, once or more; valid: {listed}",
            )
        for text in wanted:
            capability_number(text)
            if text not in self.capabilities:
                raise ConfigError(
                    f"TensorRT-RTX {self.version} does not build for compute capability {text}",
                    hint=f"valid: {listed}. Data-center and Jetson devices are served by --target tensorrt, "
                    "built on the device itself",
                )


def load_library(flavor: Flavor) -> Library:
    """Import a library.

    Raises:
        EngineMissingError: it is not installed, or cannot be loaded; the hint is the install line.
    """
    name = MODULES[flavor]
    try:
        module = importlib.import_module(name)
    except ImportError as err:
        raise EngineMissingError(f"{name} is not installed", hint=INSTALL[flavor]) from err
    except OSError as err:  # its shared libraries are missing or too new for this system
        raise EngineMissingError(f"{name} cannot be loaded: {err}", hint=INSTALL[flavor]) from err
    return Library(flavor=flavor, module=module, version=str(module.__version__), cuda_major=_cuda_major(name))


def _cuda_major(module: str) -> int | None:
    """The CUDA version in the name of the distribution that holds the libraries, as in `tensorrt_rtx_cu13`."""
    pattern = re.compile(rf"{module}[_-]cu(\d+)", re.IGNORECASE)
    for found in metadata.distributions():
        match = pattern.fullmatch(found.metadata["Name"] or "")
        if match:
            return int(match[1])
    return None
