"""Rewrites that ONNX Runtime must leave out, in every session that proves an engine and in every one that runs it.

1. `WeightBiasQuantization` (seen in ONNX Runtime 1.32) gives 8 bits to what a plan leaves float: the weight of a
   Conv, ConvTranspose or Gemm between a DequantizeLinear and a QuantizeLinear, with one scale for all channels, and
   its bias, whose cast to int32 is undefined beyond 2^31. Exported graphs hold every weight and bias as the plan
   says, so that nothing is lost without it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LEFT_OUT", "leave_out_rewrites"]

LEFT_OUT = ("WeightBiasQuantization",)
"""Names of ONNX Runtime's own; one that a version does not know is passed over."""


def leave_out_rewrites(options: Any) -> None:
    """Switch them off in the options of a session."""
    options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(LEFT_OUT))
