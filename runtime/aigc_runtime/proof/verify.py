"""Prove a session against PyTorch's reference, on the host before publishing and on the device without torch.

Token ids of texts and prompts of chats come first, and must be equal. Then three levels: (1) every output tensor of
every reference case, (2) a whole generation, (3) the model's own quality metric, which only the host can measure. A
level that compared nothing has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.bundle.manifest import Manifest, QualityResult, Tolerances
from aigc_runtime.bundle.reference_arrays import read_request, read_results, read_step
from aigc_runtime.core.compare import TensorErrors, Tolerance, compare_arrays, judge
from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, BundleError, ConfigError, FeedError
from aigc_runtime.pipelines import kind_of, make_pipeline
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Request, Results, Roles
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.proof.paired import PairedCheck, named
from aigc_runtime.proof.text_vectors import TextCheck, check_text_vectors

__all__ = [
    "GenerationCheck",
    "OwnLimits",
    "ParityReport",
    "QualityCheck",
    "TensorCheck",
    "check_generation",
    "check_quality",
    "check_tensors",
    "check_text",
    "verify_bundle",
]

_LOG = logging.getLogger(__name__)

Step = tuple[str, Mapping[str, Array], Mapping[str, Array]]
"""Engine, inputs, reference outputs."""
Cases = Iterable[tuple[str, Sequence[Step]]]
"""Name and steps of each case."""
OwnLimits = Mapping[tuple[str, int, str], Tolerance]
"""(case, step, output) -> its own limits."""
_NONE: OwnLimits = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class TensorCheck:
    """One output of one step of one case, which is one of an engine; `reasons` is empty exactly if it passed."""

    case: str
    step: int
    engine: str
    output: str
    errors: TensorErrors
    passed: bool
    reasons: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where the output is, in words; the engine is named where it is not the only one."""
        engine = "" if self.engine == MAIN_ENGINE else f" of engine {self.engine!r}"
        return f"case {self.case!r} step {self.step} output {self.output!r}{engine}"


@dataclass(frozen=True, kw_only=True)
class GenerationCheck:
    """A whole generation by both sides; `metric` is that of the kind of pipeline."""

    metric: str
    value: float
    limit: float
    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class QualityCheck:
    """A metric of both sides, measured on `data`; `drop`: how much worse the engine is, relative to PyTorch.

    `limit` is None where the metric is only told.
    """

    metric: str
    reference: float
    actual: float
    drop: float
    limit: float | None
    higher_is_better: bool
    passed: bool
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All checks of one session.

    Attributes:
        name: of the model.
        target: of the bundle.
        precision: of the bundle.
        tensors: level 1.
        generation: level 2.
        quality: level 3; empty on a device, and for models that have no metric.
        paired: level 3, sample by sample; empty on a device.
        text: token ids and prompts of chats; None for a model without a tokenizer of a file.
    """

    name: str
    target: str
    precision: str
    tensors: tuple[TensorCheck, ...]
    generation: GenerationCheck
    quality: tuple[QualityCheck, ...] = ()
    paired: tuple[PairedCheck, ...] = ()
    text: TextCheck | None = None

    @property
    def passed(self) -> bool:
        """True only if tensors were compared and every check passed."""
        return (
            bool(self.tensors)
            and all(c.passed for c in self.tensors)
            and self.generation.passed
            and all(c.passed for c in self.quality)
            and all(c.passed for c in self.paired)
            and (self.text is None or self.text.passed)
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per miss."""
        found = [f"{c.place}: {r}" for c in self.tensors for r in c.reasons]
        found += [f"generation: {r}" for r in self.generation.reasons]
        found += [
            f"quality: {named(c.metric, c.data)} is {c.actual:.5g}, PyTorch has {c.reference:.5g}: {c.drop:.3%} worse, "
            f"at most {c.limit:.3%} is allowed"
            for c in self.quality
            if c.limit is not None and not c.passed
        ]
        found += [
            f"paired: {named(c.metric.name, c.metric.data)} is {c.metric.value:.5g} ± {c.metric.standard_error:.2g} "
            f"over {c.metric.samples} samples, the limit is {c.limit:g}"
            for c in self.paired
            if not c.passed
        ]
        if self.text is not None:
            found += [f"tokens: {reason}" for reason in self.text.reasons]
        if not self.tensors:
            found.append("no tensor was compared")
        return tuple(found)

    def worst(self) -> TensorCheck:
        """The tensor check with the lowest signal-to-noise ratio.

        Raises:
            ConfigError: nothing was compared.
        """
        if not self.tensors:
            raise ConfigError("no tensor was compared")
        return min(self.tensors, key=lambda c: (c.passed, c.errors.sqnr_db))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "passed": self.passed, "failures": list(self.failures)}


def check_tensors(
    program: OpenProgram, cases: Cases, tolerance: Tolerance, own: OwnLimits = _NONE
) -> tuple[TensorCheck, ...]:
    """Run every case on one carried state of its own and compare every output.

    Args:
        program: the engines.
        cases: PyTorch's arrays.
        tolerance: limits of every output.
        own: of outputs that have their own in place of these.

    Raises:
        EngineError: the engine failed.
    """
    return tuple(check for name, steps in cases for check in _check_case(program, name, steps, tolerance, own))


def _check_case(
    program: OpenProgram, name: str, steps: Sequence[Step], tolerance: Tolerance, own: OwnLimits
) -> Iterator[TensorCheck]:
    state = program.new_state()
    for number, (engine, inputs, outputs) in enumerate(steps):
        actual = program.run(engine, inputs, state)
        for output, reference in outputs.items():
            errors = compare_arrays(reference, actual[output])
            verdict = judge(errors, own.get((name, number, output), tolerance))
            where, told = f"{name} step {number} {engine}.{output}", "; ".join(verdict.reasons) or "ok"
            _LOG.debug("%s: %.1f dB, max %.2e of the RMS, %s", where, errors.sqnr_db, errors.max_over_rms, told)
            yield TensorCheck(
                case=name,
                step=number,
                engine=engine,
                output=output,
                errors=errors,
                passed=verdict.passed,
                reasons=verdict.reasons,
            )


def check_generation(
    program: OpenProgram | Session,
    settings: Any,
    request: Request,
    reference: Results,
    tolerances: Tolerances,
    roles: Roles = SINGLE_ENGINE,
) -> GenerationCheck:
    """Replay a request through the pipeline and compare the result with PyTorch's.

    Raises:
        ConfigError: the tolerances have no limit for this kind of pipeline.
    """
    metric = kind_of(settings).metric
    limit = tolerances.limits().get(metric.limit)
    if limit is None:
        raise ConfigError(
            f"the tolerances set no limit for {metric.name}: {metric.limit} is null",
            hint="a check without a limit cannot fail",
        )
    try:
        actual = run_request(make_pipeline(program, settings, roles), request)
    except AigcError as err:
        return GenerationCheck(metric=metric.name, value=0.0, limit=limit, passed=False, reasons=(err.message,))
    value = metric.measure(reference, actual)
    passed = value >= limit
    _LOG.debug("generation: %s %.6g, at least %g is needed", metric.name, value, limit)
    reasons = () if passed else (f"{metric.name} is {value:.4g}, at least {limit:g} is needed",)
    return GenerationCheck(metric=metric.name, value=value, limit=limit, passed=passed, reasons=reasons)


def check_quality(results: Iterable[QualityResult], tolerances: Tolerances) -> tuple[QualityCheck, ...]:
    """Hold measured quality against the largest allowed drop.

    Raises:
        ConfigError: the tolerances set no limit for one that has some.
    """
    checks = []
    for result in results:
        limit = None if result.limit is None else tolerances.max_quality_drop
        if result.limit is not None and limit is None:
            raise ConfigError("the tolerances set no max_quality_drop", hint="a check without a limit cannot fail")
        sign = 1 if result.higher_is_better else -1
        drop = sign * (result.reference - result.bundle) / max(abs(result.reference), 1e-12)
        checks.append(
            QualityCheck(
                metric=result.metric,
                reference=result.reference,
                actual=result.bundle,
                drop=drop,
                limit=limit,
                higher_is_better=result.higher_is_better,
                # `not >` would let NaN through.
                passed=limit is None or drop <= limit,
                data=result.data,
            )
        )
    return tuple(checks)


def check_text(bundle: Bundle) -> TextCheck | None:
    """Replay the texts and chats of a bundle; None for a pipeline that has none.

    Raises:
        BundleError: a file is damaged.
        TextSupportMissingError: the package of its tokenizer is not installed.
    """
    file = bundle.manifest.reference.text
    if file is None:
        return None
    return check_text_vectors(bundle.manifest.pipeline.settings, bundle.assets, bundle.read(file))


def _own_limits(manifest: Manifest) -> OwnLimits:
    return {
        (case.name, number, output): Tolerance(min_sqnr_db=limit)
        for case in manifest.reference.cases
        for number, step in enumerate(case.steps)
        for output, limit in step.min_sqnr_db.items()
    }


def verify_bundle(bundle: Bundle, program: OpenProgram | Session) -> ParityReport:
    """Prove a bundle's engines on this machine against the reference that PyTorch made, without torch.

    Args:
        bundle: opened, so its files are whole.
        program: its engines; the session of its only engine will do.

    Returns:
        Levels 1 and 2.

    Raises:
        BundleError: a reference file is damaged.
        EngineError: the engine failed.
        TextSupportMissingError: the package of its tokenizer is not installed.
    """
    manifest = bundle.manifest
    text = check_text(bundle)
    program = as_program(program)
    try:
        cases = [
            (case.name, [(step.engine, *read_step(bundle, case, number)) for number, step in enumerate(case.steps)])
            for case in manifest.reference.cases
        ]
        return ParityReport(
            name=manifest.name,
            target=manifest.target,
            precision=manifest.precision,
            tensors=check_tensors(program, cases, manifest.tolerances.tensor, _own_limits(manifest)),
            generation=check_generation(
                program,
                manifest.pipeline.settings,
                read_request(bundle),
                read_results(bundle),
                manifest.tolerances,
                manifest.pipeline.engines,
            ),
            text=text,
        )
    except FeedError as err:
        raise BundleError(f"the reference does not fit the engine: {err.message}", hint=err.hint) from err
    except MemoryError as err:
        raise BundleError(
            f"there is not enough memory for the bundle's reference: {err}",
            hint="verify it on a device with more memory, or export it again with a smaller reference",
        ) from err
