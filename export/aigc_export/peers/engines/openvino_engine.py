"""OpenVINO, with models that optimum-intel makes: stateful, weights compressed by NNCF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

__all__ = ["Engine", "build", "version"]

BITS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8": {"bits": 8},
    "int4": {"bits": 4, "sym": False, "group_size": 32},
}


def version() -> str:
    """The package's."""
    return str(openvino.__version__).split("-", maxsplit=1)[0]


def build(source: str, form: str, into: str) -> None:
    """Export with optimum-intel."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    bits = BITS[form]
    config = None if bits is None else OVWeightQuantizationConfig(**bits)
    options: dict[str, Any] = {"load_in_8bit": False} if config is None else {"quantization_config": config}
    model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, **options)
    model.save_pretrained(into)


class Engine:
    """See `aigc_export.peers.engines`.

    Args:
        folder: that `build` made.
        form: not read: it is in the model.
        threads: of the CPU device; its number format is the device's own choice.
    """

    def __init__(self, folder: str, form: str, threads: int) -> None:
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        model = openvino.Core().read_model(Path(folder) / "openvino_model.xml")
        self.request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        self.takes = {name for port in model.inputs for name in port.get_names()}
        self._seen, self._token = 0, 0

    def _logits(self, ids: list[int]) -> Any:
        seen, self._seen = self._seen, self._seen + len(ids)
        feeds = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, self._seen), dtype=np.int64),
            "position_ids": np.arange(seen, self._seen, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in feeds.items() if name in self.takes}, share_inputs=True)
        return self.request.get_tensor("logits").data[0]

    def _start(self) -> None:
        self.request.reset_state()
        self._seen = 0

    def prompt(self, ids: list[int], room: int) -> int:
        """Read a prompt; the likeliest next token."""
        self._start()
        self._token = int(self._logits(ids)[-1].argmax())
        return self._token

    def step(self) -> int:
        """The next token."""
        self._token = int(self._logits([self._token])[-1].argmax())
        return self._token

    def positions(self, ids: list[int]) -> Any:
        """Logits of every place: [S, V] float32."""
        self._start()
        return self._logits(ids).copy()
