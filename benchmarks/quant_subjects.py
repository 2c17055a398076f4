"""What the quantization benchmark quantizes: the shipped models as float graphs, and their evaluators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_export.graphs.capture import capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.prepare.calibration_data import calibration_data
from aigc_export.prepare.prepare import pass_feeds
from aigc_export.recipes.hints import with_hints
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator, program_evaluation
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import Evaluator
from aigc_models.program import Program
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import TorchSession
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.session import Session

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

__all__ = ["SUBJECTS", "Subject", "load_subject", "subject_of"]

OPSET = 20
EVALUATION_SEED = 1000
"""Added to a seed for every evaluation, so that no evaluated sample was calibrated on."""
OUTLIER_CHANNELS, OUTLIER_FACTOR = 4, 30.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to quantize.

    Attributes:
        name: key of `SUBJECTS`.
        model: of a shipped model.
        program: the model that is quantized.
        graph: float, after the passes.
        reference: PyTorch's session of the shipped weights.
        evaluation: what it is evaluated on.
        sensitive: `QuantConfig.sensitive` in place of the product's choice; None keeps that choice.
    """

    name: str
    model: str
    program: Program
    graph: ir.Model
    reference: Session
    evaluation: Evaluation
    sensitive: tuple[str, ...] | None
    evaluators: dict[tuple[int, int], Evaluator] = field(default_factory=dict)

    def config(self, precision: str) -> QuantConfig:
        """What the model's own hints say for a precision, or what the subject changes about it."""
        made = with_hints(QuantConfig(), self.program.part.hints, precision)
        return made if self.sensitive is None else replace(made, sensitive=self.sensitive)

    @property
    def measure(self) -> str:
        """The metric that it is evaluated by."""
        return get_workload(self.program.kind).measures[0].name

    def data(self, seed: int, samples: int | None = None) -> CalibrationData:
        """Calibration samples: training text, or what the pipeline draws."""
        count = samples or self.config("int8").samples
        return calibration_data(self.program, path=None, samples=count, seed=seed)

    def open(self, model: bytes, *, threads: int | None = None) -> OrtSession:
        """A session over a graph in bytes."""
        return OrtSession(model, self.program.part.interface, folder=None, threads=threads)

    def evaluator(self, seed: int, samples: int) -> Evaluator:
        """Beside PyTorch, on held-out text or noise of its own; the reference's side is computed once."""
        key = (seed, samples)
        if key not in self.evaluators:
            made = make_evaluator(
                get_workload(self.program.kind),
                self.reference,
                self.program.settings,
                evaluation=self.evaluation,
                samples=samples,
                seed=EVALUATION_SEED + seed,
            )
            self.evaluators[key] = made
        return self.evaluators[key]

    def proto_bytes(self) -> bytes:
        """The float graph."""
        import onnx_ir as ir

        data: bytes = ir.to_proto(self.graph).SerializeToString()
        return data


def load_subject(name: str) -> Subject:
    """Load, capture and clean up a shipped model."""
    model, change = SUBJECTS[name]
    loaded, program = load_shipped(model), load_shipped(model)
    change(program.part.module)
    return subject_of(program, name, model=model, judged=loaded, sensitive=KEPT_FLOAT.get(name))


def subject_of(
    program: Program,
    name: str,
    *,
    model: str = "",
    judged: Program | None = None,
    sensitive: tuple[str, ...] | None = None,
) -> Subject:
    """Capture and clean up a program of one part.

    Args:
        program: the model that is quantized.
        name: of the subject.
        model: of a shipped model.
        judged: whose weights the reference has; None takes the program's.
        sensitive: see `Subject`.
    """
    reference = judged or program
    captured = capture(program.part, opset=OPSET, model_config=program.model_config)
    graph, _ = run_passes(captured.model, CLEAN_UP, feeds=pass_feeds(program.part, 0))
    return Subject(
        name=name,
        model=model,
        program=program,
        graph=graph,
        reference=TorchSession(reference.part),
        evaluation=program_evaluation(reference),
        sensitive=sensitive,
    )


def _unchanged(_module: nn.Module) -> None:
    pass


def _inject_outliers(module: nn.Module) -> None:
    """The same function with outliers in the activations: a gain g -> g f in a few channels, the weights behind / f.

    Large language models grow such channels in training (Dettmers et al. 2022, "LLM.int8()", section 4).
    """
    import torch

    rng = np.random.default_rng(0)
    with torch.no_grad():
        for layer in module.model.layers:  # type: ignore[union-attr]
            readers = {
                layer.input_layernorm: (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                layer.post_attention_layernorm: (layer.mlp.gate_proj, layer.mlp.up_proj),
            }
            for norm, linears in readers.items():
                channels = rng.choice(len(norm.weight), OUTLIER_CHANNELS, replace=False)
                norm.weight[channels] *= OUTLIER_FACTOR
                for linear in linears:
                    linear.weight[:, channels] /= OUTLIER_FACTOR


SUBJECTS: dict[str, tuple[str, Callable[[nn.Module], None]]] = {
    "lm": ("lm", _unchanged),
    "lm-outliers": ("lm", _inject_outliers),
    "unet": ("unet", _unchanged),
    "gan": ("gan", _unchanged),
    "gan-float-image": ("gan", _unchanged),
}
"""name -> (shipped model, what is done to it)."""
KEPT_FLOAT = {"gan-float-image": ("project", "to_image")}
"""name -> modules that stay float in 8 bits, in place of the family's own."""
