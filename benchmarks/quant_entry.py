"""What a subject of the quantization benchmark is made of, before its graph is captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quant_judges import Judge

from aigc_models.program import Program
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.tensors import Array

__all__ = ["Entry"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model as the product loads or makes it, and how it is judged.

    Attributes:
        program: the model that is quantized.
        part: name of the part that is; the others stay PyTorch's.
        rows: input -> array with a row for every sample [N, ...] of training data; None: what the pipeline draws.
        judge: None takes the metric of the kind of pipeline.
        reference: whose weights PyTorch's side has; None takes the program's.
        sensitive: `QuantConfig.sensitive` in place of the product's choice; None keeps that choice.
    """

    program: Program
    part: str = MAIN_ENGINE
    rows: Mapping[str, Array] | None = None
    judge: Judge | None = None
    reference: Program | None = None
    sensitive: tuple[str, ...] | None = None
