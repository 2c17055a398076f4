"""Generation loops, one file per kind; the same loop runs over an engine and over PyTorch."""

from __future__ import annotations

from aigc_runtime.pipelines.kind import AnyPipeline, PipelineKind
from aigc_runtime.pipelines.kinds import KINDS, get_kind, kind_of, make_pipeline

__all__ = ["KINDS", "AnyPipeline", "PipelineKind", "get_kind", "kind_of", "make_pipeline"]
