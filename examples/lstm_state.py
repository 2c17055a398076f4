"""A module with carried state: an LSTM that is fed one step at a time.

    python examples/lstm_state.py

The state is declared once, by `StateSpec`. After that nobody passes it: the session keeps it where the engine wants it.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import aigc_export
import aigc_runtime

FEATURES, HIDDEN = 4, 16


class Forecast(nn.Module):
    """The next value of a signal, from this one and from what is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(FEATURES, HIDDEN)
        self.head = nn.Linear(HIDDEN, FEATURES)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> dict[str, Tensor]:
        hidden, cell = self.cell(x, (hidden, cell))
        return {"forecast": self.head(hidden), "new_hidden": hidden, "new_cell": cell}


def make_program() -> aigc_export.Program:
    torch.manual_seed(0)
    example = {"x": torch.rand(1, FEATURES), "hidden": torch.zeros(1, HIDDEN), "cell": torch.zeros(1, HIDDEN)}
    state = [
        aigc_export.StateSpec(
            input=name, output=f"new_{name}", kind="recurrent", dtype="float32", shape=("batch", HIDDEN)
        )
        for name in ("hidden", "cell")
    ]
    return aigc_export.program(Forecast().eval(), example, dims={"x": {0: "batch"}}, state=state)


def main(output: Path = Path("out/forecast")) -> None:
    program = make_program()
    aigc_export.export(program, output=output, quality_samples=4)

    signal = np.sin(np.arange(20, dtype=np.float32)[:, None, None] * 0.3 + np.arange(FEATURES, dtype=np.float32))
    with aigc_runtime.open_pipeline(output) as pipeline:
        state = pipeline.new_state(1)  # one row; other sequences have states of their own
        forecasts = [pipeline.generate({"x": x}, state)["forecast"] for x in signal]

    # The same in PyTorch, where the caller carries the state.
    module = program.part.module.get_submodule("model")
    carried = {"hidden": torch.zeros(1, HIDDEN), "cell": torch.zeros(1, HIDDEN)}
    for x, forecast in zip(signal, forecasts, strict=True):
        with torch.no_grad():
            result = module(torch.from_numpy(x), **carried)
        carried = {name: result[f"new_{name}"] for name in carried}
        np.testing.assert_allclose(forecast, result["forecast"].numpy(), atol=1e-5)
    print(f"{len(forecasts)} steps as in PyTorch")


if __name__ == "__main__":
    main()
