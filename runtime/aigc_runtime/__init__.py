"""Runs bundles on a device with numpy and one inference engine, no torch.

Names are loaded when first used, so that importing this package costs next to nothing.

    from aigc_runtime import open_pipeline

    with open_pipeline("out/lm") as pipeline:
        print(pipeline.generate("def main(")[0].text)
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aigc_runtime._version import __version__ as __version__

if TYPE_CHECKING:
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.bundle.trusted_keys import read_trusted_keys
    from aigc_runtime.errors import (
        AdapterError,
        AigcError,
        BundleError,
        BundleReplacedError,
        CancelledError,
        ChatTemplateError,
        CheckpointError,
        ConfigError,
        EngineError,
        EngineMemoryError,
        EngineMissingError,
        FeedError,
        InputError,
        OutputError,
        ParityError,
        TextSupportMissingError,
        UnknownNameError,
    )
    from aigc_runtime.generation.rng import TorchGenerator
    from aigc_runtime.generation.sampling_params import SamplingParams
    from aigc_runtime.io.png import image_grid, write_png
    from aigc_runtime.opening import open_pipeline, open_program, open_session
    from aigc_runtime.pipelines.chat import ChatSession
    from aigc_runtime.pipelines.diffusion import DiffusionPipeline
    from aigc_runtime.pipelines.gan import GanPipeline
    from aigc_runtime.pipelines.kind import PipelineKind
    from aigc_runtime.pipelines.tensors import TensorsPipeline
    from aigc_runtime.pipelines.text import TextPipeline, TextResult
    from aigc_runtime.proof.verify import verify_bundle

__all__ = [
    "AdapterError",
    "AigcError",
    "Bundle",
    "BundleError",
    "BundleReplacedError",
    "CancelledError",
    "ChatSession",
    "ChatTemplateError",
    "CheckpointError",
    "ConfigError",
    "DiffusionPipeline",
    "EngineError",
    "EngineMemoryError",
    "EngineMissingError",
    "FeedError",
    "GanPipeline",
    "InputError",
    "OutputError",
    "ParityError",
    "PipelineKind",
    "SamplingParams",
    "TensorsPipeline",
    "TextPipeline",
    "TextResult",
    "TextSupportMissingError",
    "TorchGenerator",
    "UnknownNameError",
    "image_grid",
    "open_pipeline",
    "open_program",
    "open_session",
    "read_trusted_keys",
    "verify_bundle",
    "write_png",
]

_HOMES = {
    "AdapterError": "errors",
    "AigcError": "errors",
    "Bundle": "bundle.bundle",
    "BundleError": "errors",
    "BundleReplacedError": "errors",
    "CancelledError": "errors",
    "ChatSession": "pipelines.chat",
    "ChatTemplateError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DiffusionPipeline": "pipelines.diffusion",
    "EngineError": "errors",
    "EngineMemoryError": "errors",
    "EngineMissingError": "errors",
    "FeedError": "errors",
    "GanPipeline": "pipelines.gan",
    "InputError": "errors",
    "OutputError": "errors",
    "ParityError": "errors",
    "PipelineKind": "pipelines.kind",
    "SamplingParams": "generation.sampling_params",
    "TensorsPipeline": "pipelines.tensors",
    "TextPipeline": "pipelines.text",
    "TextResult": "pipelines.text",
    "TextSupportMissingError": "errors",
    "TorchGenerator": "generation.rng",
    "UnknownNameError": "errors",
    "image_grid": "io.png",
    "open_pipeline": "opening",
    "open_program": "opening",
    "open_session": "opening",
    "read_trusted_keys": "bundle.trusted_keys",
    "verify_bundle": "proof.verify",
    "write_png": "io.png",
}

# Without it, Python would print warnings of an application that sets up no logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aigc_runtime' has no attribute {name!r}")
    value = getattr(import_module(f"aigc_runtime.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*__all__, "__version__"])
