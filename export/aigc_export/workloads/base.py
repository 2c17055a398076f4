"""Say what the host knows of a kind of pipeline: one value for each kind, in place of branches all over the house.

The runtime's `PipelineKind` drives engines; a `Workload` of the same name proves, calibrates and evaluates them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aigc_calibration.data import CalibrationData
from aigc_calibration.formats import QdqFormat
from aigc_calibration.plan import HALF_PRECISIONS, SitePrecision, as_site_precision
from aigc_calibration.subject import Subject
from aigc_export.workloads.measures import Measure
from aigc_models.data.kept_data import KeptData
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import ProgramEvaluator
from aigc_models.program import Part, Program
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.kind import Roles

__all__ = [
    "DEFAULT_SAMPLES",
    "WEIGHTS_ALONE",
    "CasePlan",
    "EvaluationFacts",
    "EvaluatorRequest",
    "Feeds",
    "Precisions",
    "Range",
    "SampleRequest",
    "Workload",
    "samples_of_pictures",
    "single_profile",
]

Feeds = dict[str, Array]
"""Input -> array."""
Range = tuple[int, int, int]
"""Smallest, best and largest size of a dimension."""
Precisions = tuple[SitePrecision, SitePrecision]
"""(low, high): the two that a search chooses between at every site."""
WEIGHTS_ALONE: Precisions = ("int4-weight", "int8-weight")
INTEGERS: Precisions = ("int8", "float")


@dataclass(frozen=True, kw_only=True)
class CasePlan:
    """Inputs of steps that run one after the other on one carried state.

    Attributes:
        name: of the case.
        steps: engine, and what it is fed.
    """

    name: str
    steps: tuple[tuple[str, Feeds], ...]


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What samples to calibrate on are asked for.

    Attributes:
        path: the user's files; None takes what suits the kind.
        samples: how many, at most.
        seed: of the choice.
        own_text: what the checkpoint keeps of the text that it was trained on, in pieces.
        held_out: the text that quality is measured on, in pieces: none of it is calibrated on.
    """

    path: Path | str | None
    samples: int
    seed: int
    own_text: Sequence[bytes] = ()
    held_out: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """What is known of the data that a model can be evaluated on.

    Attributes:
        kept: what the checkpoint says of its data; None where it says nothing.
        held_out: the text that it keeps, in pieces.
        class_names: of config.json.
        measured_on: what an export's own metric was measured on; empty where it had none, or where none is known.
        eval_data: what the user names.
        examples: inputs of the reference, of a bundle alone.
        assets: files of the program, or of the bundle.
        program: of a model that was loaded.
    """

    kept: KeptData | None = None
    held_out: Sequence[bytes] = ()
    class_names: object = None
    measured_on: str = ""
    eval_data: Path | str | None = None
    examples: Mapping[str, Array] = field(default_factory=dict)
    assets: Mapping[str, bytes] = field(default_factory=dict)
    program: Program | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluatorRequest:
    """What an evaluator is made for.

    Attributes:
        reference: PyTorch's sessions, or another export's; its side is computed once.
        settings: of the pipeline.
        roles: role in the pipeline -> engine.
        evaluation: what is evaluated on.
        samples: windows of text, images, or what the kind takes: two or more.
        seed: of what is drawn.
        repeated: several candidates are evaluated, so the reference's side is worth its memory.
    """

    reference: OpenProgram
    settings: Any
    roles: Roles
    evaluation: Evaluation
    samples: int
    seed: int
    repeated: bool = True

    @property
    def session(self) -> Session:
        """The reference's session of the only engine."""
        return self.reference.session(MAIN_ENGINE)


def single_profile(_part: Part, ranges: Mapping[str, Range]) -> tuple[ShapeProfile, ...]:
    """Make one profile of all ranges: of engines whose steps are alike."""
    return (ShapeProfile(name="default", dims=dict(ranges)),)


def _unknown_size(_dim: DimSpec, _part: Part, _settings: Any) -> int | None:
    return None


def _no_pictures(_settings: Any) -> int | None:
    return None


DEFAULT_SAMPLES = 200
LARGE_MODEL, HUGE_MODEL = 5_000_000, 50_000_000
"""Parameters from which on pictures take seconds, and minutes."""


def samples_of_pictures(parameters: int) -> int:
    """Choose so many pictures that they take no hours: of a large generator 16 show what 200 of a small one do."""
    return DEFAULT_SAMPLES if parameters < LARGE_MODEL else 16 if parameters < HUGE_MODEL else 4


def _default_samples(_parameters: int) -> int:
    return DEFAULT_SAMPLES


def _calibration_samples(_program: Program) -> int:
    return 256


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the host knows of a kind of pipeline. `settings` are those of its pipelines.

    Attributes:
        kind: its name, as in `aigc_runtime.pipelines.KINDS`.
        cases: (program, PyTorch's sessions, random numbers) -> inputs of the reference, at several shapes. The
            sessions' dimensions bound the shapes, so that an engine for fewer of them can be proven.
        request: (program, PyTorch's sessions, seed) -> keyword arguments of `generate` for the reference.
        subject: (interface, settings) -> what is calibrated, with what its inputs may hold.
        calibration: (program, its part that is calibrated, request) -> samples.
        evaluation: (settings, facts) -> what is evaluated on.
        evaluator: request -> evaluates candidates beside the reference.
        tolerances: precision -> limits of a bundle.
        measures: what evaluators measure; the first is that of the default budget.
        budget: of `--precision auto`.
        quality_decides: whether in lossy precisions the measured quality decides, and errors of tensors are told.
        default_samples: parameters of a model -> samples that it is evaluated on where no number is asked for.
        calibration_samples: program -> samples that it is calibrated on where no number is asked for.
        half_samples: at most so many for 16 bits, which need the largest numbers alone; None takes as many.
        int8_in_blocks: whether `int8` is codes in blocks, of weights and, when it runs, of what they are multiplied
            with, where an engine has kernels for that: what has rare numbers a hundred times the others is held by no
            range that is found ahead (Dettmers et al. 2022, LLM.int8(), section 3).
        nearest: see `QuantConfig`.
        gain_smoothing: see `QuantConfig`.
        block: see `QuantConfig`.
        float_share: see `QuantConfig`.
        loops: whether a generation runs its one part again and again on what it gave, so that small errors grow.
        few_samples: that are read where gains are smoothed and nothing else needs any.
        precision_pairs: what a search chooses between.
        probe_batches: batches of calibration data on which a search measures noise.
        foreign_limits: names of limits on what this kind does not make.
        best_size: (dimension, part, settings) -> the size that an engine is optimized for; None takes the smallest.
        largest_size: (dimension, part, settings) -> the largest size that an engine is compiled for; None takes the
            dimension's own, or twice the best where it has none.
        shapes_needed: what profiles must cover for a whole generation, a sentence; empty if nothing special.
        profiles: (part, ranges) -> the profiles of an engine that is compiled for ranges of shapes.
        picture_channels: settings -> channels of the images that it makes; None where it makes none.
        showcase: pipeline -> the suffix and the bytes of a file that shows what the model makes; None for a kind
            without a model here.
    """

    kind: str
    cases: Callable[[Program, OpenProgram, np.random.Generator], Iterator[CasePlan]]
    request: Callable[[Program, OpenProgram, int], dict[str, Any]]
    subject: Callable[[Interface, Any], Subject]
    calibration: Callable[[Program, Part, SampleRequest], CalibrationData]
    evaluation: Callable[[Any, EvaluationFacts], Evaluation]
    evaluator: Callable[[EvaluatorRequest], ProgramEvaluator]
    tolerances: Mapping[str, Tolerances]
    measures: tuple[Measure, ...]
    budget: str
    quality_decides: bool = False
    default_samples: Callable[[int], int] = _default_samples
    calibration_samples: Callable[[Program], int] = _calibration_samples
    half_samples: int | None = None
    int8_in_blocks: bool = False
    nearest: tuple[SitePrecision, ...] = ()
    gain_smoothing: float = 0.0
    block: int | None = 32
    float_share: float = 0.1
    loops: bool = False
    few_samples: int = 8
    precision_pairs: tuple[Precisions, ...] = (INTEGERS,)
    probe_batches: int = 4
    foreign_limits: tuple[str, ...] = ()
    best_size: Callable[[DimSpec, Part, Any], int | None] = _unknown_size
    largest_size: Callable[[DimSpec, Part, Any], int | None] = _unknown_size
    shapes_needed: str = ""
    profiles: Callable[[Part, Mapping[str, Range]], tuple[ShapeProfile, ...]] = single_profile
    picture_channels: Callable[[Any], int | None] = _no_pictures
    showcase: Callable[[Any], tuple[str, bytes]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerances", MappingProxyType(dict(self.tolerances)))

    def limits(self, precision: str) -> Tolerances:
        """Return the limits of a precision.

        Raises:
            ConfigError: the kind states none; without limits no check could fail.
        """
        if precision not in self.tolerances:
            raise ConfigError(
                f"the kind {self.kind!r} states no tolerances for {precision}",
                hint=f"choose --precision {', '.join(self.tolerances)}",
            )
        return self.tolerances[precision]

    def run_as(self, precision: str, form: QdqFormat) -> str:
        """Return the precision that an engine of a form runs under a name; see `QdqFormat.run_as`."""
        return form.run_as(precision, in_blocks=self.int8_in_blocks)

    def samples_for(self, precision: str, program: Program) -> int:
        """Choose how many samples a model is calibrated on where no number is asked for."""
        most = self.calibration_samples(program)
        few = self.half_samples if precision in HALF_PRECISIONS else None
        return most if few is None else min(few, most)

    def searched_pairs(self, objective: str, form: QdqFormat) -> tuple[Precisions, ...]:
        """Choose the pairs that a search goes through: weights alone always save bytes, and not always time.

        Args:
            objective: of the search.
            form: of the engine.
        """
        pairs = tuple((as_site_precision(self.run_as(low, form)), high) for low, high in self.precision_pairs)
        return pairs if objective != "size" or WEIGHTS_ALONE in pairs else (*pairs, WEIGHTS_ALONE)
