"""Providers of ONNX Runtime: the part of it that runs a graph, on which device, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aigc_runtime.errors import ConfigError

__all__ = ["PROVIDERS", "OrtBuild", "Provider"]


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider.

    Attributes:
        name: in manifests; also ONNX Runtime's name of the device that its values lie on.
        ort_name: as ONNX Runtime calls it.
        packages: of which one brings it.
        install: how to get one.
        hides: packages that write to the same folder, so that the one without the provider may be imported.
        needs: libraries beside the package, in words; empty for none.
        libraries: packages that tell that these are there; the system may have them as well.
        needs_install: how to get them.
        options: that it is always opened with.
    """

    name: str
    ort_name: str
    packages: tuple[str, ...]
    install: str
    hides: tuple[str, ...] = ()
    needs: str = ""
    libraries: tuple[str, ...] = ()
    needs_install: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(
        name="cpu",
        ort_name="CPUExecutionProvider",
        packages=("onnxruntime", "onnxruntime-gpu"),
        install="pip install 'aigc-runtime[ort]'",
    ),
    "cuda": Provider(
        name="cuda",
        ort_name="CUDAExecutionProvider",
        packages=("onnxruntime-gpu",),
        # Both packages write to one folder: with both installed, the one without CUDA may win.
        install="pip uninstall -y onnxruntime && pip install 'aigc-runtime[ort-gpu]'",
        hides=("onnxruntime",),
        needs="CUDA and cuDNN",
        libraries=("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
        needs_install="pip install 'aigc-runtime[ort-gpu]'",
        # fp32 means fp32: by default it rounds the operands of fp32 products to 10 bits of mantissa.
        options={"use_tf32": "0"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class OrtBuild:
    """What a manifest says about a graph for ONNX Runtime.

    Attributes:
        provider: that it was exported for.
        min_version: the oldest ONNX Runtime that is known to load it, such as "1.23"; empty where any will do that the
            package of this runtime takes.
        rows_apart: whether it takes several steps of one row alone, so that a session runs several rows one after the
            other.
        byte_products: whether it rounds activations to signed bytes while it runs and multiplies them by unsigned ones,
            which is right only where such products do not saturate; an engine over the same state stands in elsewhere.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    min_version: str = ""
    rows_apart: bool = False
    byte_products: bool = False

    def __post_init__(self) -> None:
        if self.min_version and not _VERSION.fullmatch(self.min_version):
            raise ConfigError(f"build.min_version is {self.min_version!r:.200}", hint="must be numbers, as in 1.23")

    def is_met_by(self, version: str) -> bool:
        """Whether an ONNX Runtime is new enough."""
        return _numbers(version) >= _numbers(self.min_version)


_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}")


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with.

    >>> _numbers("1.23.2.dev1"), _numbers("1.9") < _numbers("1.23")
    ((1, 23, 2), True)
    """
    found = _VERSION.match(version)
    return () if found is None else tuple(map(int, found.group().split(".")))
