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
        self._seen, self._tokens = 0, list[int]()

    def _logits(self, rows: list[list[int]]) -> Any:
        count = len(rows)
        seen, self._seen = self._seen, self._seen + len(rows[0])
        feeds = {
            "input_ids": np.array(rows, dtype=np.int64),
            "attention_mask": np.ones((count, self._seen), dtype=np.int64),
            "position_ids": np.tile(np.arange(seen, self._seen, dtype=np.int64), (count, 1)),
            "beam_idx": np.arange(count, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in feeds.items() if name in self.takes}, share_inputs=True)
        return self.request.get_tensor("logits").data

    def _start(self) -> None:
        self.request.reset_state()
        self._seen = 0

    def _next(self, rows: list[list[int]]) -> list[int]:
        self._tokens = self._logits(rows)[:, -1].argmax(axis=-1).tolist()
        return self._tokens

    def prompt(self, rows: list[list[int]], room: int) -> list[int]:
        """Read prompts; the likeliest next token of each."""
        self._start()
        return self._next(rows)

    def step(self) -> list[int]:
        """The next tokens."""
        return self._next([[token] for token in self._tokens])

    def positions(self, ids: list[int]) -> Any:
        """Logits of every place: [S, V] float32."""
        self._start()
        return self._logits([ids])[0].copy()
