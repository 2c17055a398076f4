"""A PyTorch module as a `Session`: the reference side of every comparison.

The pipelines run over it as they run over an engine, so that a difference between the two can only come from the
engine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aigc_models.program import Part, Program
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError

__all__ = ["TorchSession", "open_torch"]


class TorchSession(ArraySession):
    """Runs `part.module` in float32 on the CPU.

    Args:
        part: of a program. Its module is put into evaluation mode.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        part.module.eval()
        super().__init__(self.call, part.interface)

    def call(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """All graph inputs by name -> all graph outputs by name.

        Raises:
            EngineError: PyTorch failed.
        """
        # PyTorch warns about memory that it may not write, and an array that was mapped from a file is such.
        arrays = [np.require(values[t.name], requirements=["C", "W"]) for t in self.interface.graph_inputs]
        try:
            with torch.inference_mode():
                results = self._part.module(*map(torch.from_numpy, arrays))
        except (RuntimeError, IndexError) as err:
            raise EngineError(
                f"PyTorch failed in {type(self._part.module).__name__}: {err}",
                hint="check the sizes of the inputs against the model's configuration",
            ) from err
        return {name: tensor.numpy() for name, tensor in zip(self.interface.graph_outputs, results, strict=True)}


def open_torch(program: Program) -> OpenProgram:
    """The parts of a program as sessions of PyTorch."""
    sessions = {name: TorchSession(part) for name, part in program.parts.items()}
    return OpenProgram(sessions, program.states, program.assets)
