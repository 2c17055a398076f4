"""NNCF on one graph, in an interpreter of its own: its requirements and ours need not agree.

    python nncf_process.py FOLDER

FOLDER holds `request.json` (see `main`), `model.onnx` and the calibration feeds `feeds/*.npz`, one for each batch; what
NNCF makes is written to `made.onnx`. Nothing but nncf, onnx and numpy is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the request, quantize, write.

    Keys of the request: `kind` is `static` (with `preset`, `correct_bias`, `transformer`, `ignored`) or `weights` (with
    `bits`, `block`, `options`).
    """
    import numpy as np
    import onnx

    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    model = onnx.load(folder / "model.onnx")
    feeds = []
    for path in sorted((folder / "feeds").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            feeds.append({name: arrays[name] for name in arrays.files})
    made = {"static": static, "weights": weights}[request["kind"]](model, feeds, request)
    onnx.save(made, folder / "made.onnx")


def static(model: Any, feeds: list[dict[str, Any]], request: Mapping[str, Any]) -> Any:
    """8-bit activations and weights."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    return nncf.quantize(
        model,
        nncf.Dataset(feeds),
        preset=nncf.QuantizationPreset(request["preset"]),
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if request["transformer"] else None,
        ignored_scope=nncf.IgnoredScope(names=request["ignored"]) if request["ignored"] else None,
        advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=not request["correct_bias"]),
    )


def weights(model: Any, feeds: list[dict[str, Any]], request: Mapping[str, Any]) -> Any:
    """Weights alone, in 4 or 8 bits."""
    import nncf
    import onnx

    bits, options = request["bits"], request["options"]
    model = onnx.version_converter.convert_version(model, 21) if bits == 4 else model
    # What it makes of convolutions, ONNX Runtime refuses to load: scales of more than one axis (NNCF 3.4).
    given: dict[str, Any] = {"ignored_scope": nncf.IgnoredScope(types=["Conv", "ConvTranspose"], validate=False)}
    if bits == 4:
        given |= {"ratio": 1.0, "group_size": request["block"], "all_layers": True, **options}
    if options:
        given |= {"dataset": nncf.Dataset(feeds), "subset_size": len(feeds)}
    mode = nncf.CompressWeightsMode.INT4_SYM if bits == 4 else nncf.CompressWeightsMode.INT8_SYM
    return nncf.compress_weights(model, mode=mode, **given)


if __name__ == "__main__":
    main()
