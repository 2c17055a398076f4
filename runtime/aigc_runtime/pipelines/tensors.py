"""Engines in a row: arrays go in, arrays come out. What any module at least can have.

A stage takes the tensors that earlier stages gave, by name, and the inputs of the request; what no later stage takes is
a result. A stage may run several times, with outputs fed back to its inputs, and an engine that carries state keeps it
from run to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, ProgramState, as_program
from aigc_runtime.core.ranges import MAX_STEPS, check_range
from aigc_runtime.core.session import Session
from aigc_runtime.core.sizes import MAX_SIZE, shape_value
from aigc_runtime.core.state import check_rows
from aigc_runtime.core.tensors import Array, FeedChecker, TensorSpec
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles

__all__ = ["Stage", "TensorsPipeline", "TensorsSettings"]

MAX_STAGES = 64

_ROLE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One engine of the row.

    Attributes:
        role: of the engine.
        repeat: how often it runs.
        feedback: output -> the input that takes it in the next run, for a stage that runs several times.
    """

    role: str = MAIN_ENGINE
    repeat: int = 1
    feedback: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _ROLE.fullmatch(self.role):
            raise ConfigError(
                f"a stage has the role {self.role!r:.200}", hint="lower-case letters, digits and _, at most 64"
            )
        check_range("repeat", self.repeat, 1, MAX_STEPS)
        if self.feedback and self.repeat == 1:
            raise ConfigError(f"stage {self.role!r} has feedback and runs once", hint="let it repeat, or leave it out")
        taken = list(self.feedback.values())
        if len(set(taken)) < len(taken):
            raise ConfigError(f"stage {self.role!r} feeds two outputs back to one input: {taken}")


@dataclass(frozen=True, kw_only=True)
class TensorsSettings:
    """How the engines follow one another.

    Attributes:
        stages: in the order in which they run.
        typical_sizes: named dimension -> a size that it often has, which `bench` times; the smallest for all others.
    """

    stages: tuple[Stage, ...] = (Stage(),)
    typical_sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, size in self.typical_sizes.items():
            check_range(f"typical_sizes.{name}", size, 1, MAX_SIZE)
        roles = [stage.role for stage in self.stages]
        if not 1 <= len(roles) <= MAX_STAGES:
            raise ConfigError(f"a pipeline of {len(roles)} stages", hint=f"must be 1 to {MAX_STAGES}")
        if twice := sorted({role for role in roles if roles.count(role) > 1}):
            raise ConfigError(f"two stages have the role {twice[0]!r}", hint="every stage has an engine of its own")


class TensorsPipeline:
    """Runs engines one after the other.

    Args:
        program: the engines, or the session of the only one.
        settings: the stages.
        roles: which engine each stage runs.

    Raises:
        ConfigError: other roles than those of the stages, tensors that do not fit where they are wired, feedback that
            the engine does not have, names that could mean two tensors, or a stage that would repeat the same.
    """

    def __init__(self, program: OpenProgram | Session, settings: TensorsSettings, roles: Roles = SINGLE_ENGINE) -> None:
        require_roles("tensors", roles, tuple(stage.role for stage in settings.stages))
        self.program = as_program(program)
        self.settings = settings
        self.roles = roles
        self.inputs, self.outputs = _wire([(stage, self.interface(stage)) for stage in settings.stages])
        self._checkers = [
            (FeedChecker(own, self.interface(stage).dims_by_name), [spec.name for spec in own])
            for stage in settings.stages
            if (own := [spec for spec in self.interface(stage).inputs if spec.name in self.inputs])
        ]

    def interface(self, stage: Stage) -> Interface:
        """What the engine of a stage takes and gives."""
        return self.program.session(self.roles[stage.role]).interface

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> TensorsPipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        self.close()

    @property
    def carries_state(self) -> bool:
        """Whether an engine hands anything from one run to the next."""
        return any(self.interface(stage).state for stage in self.settings.stages)

    def new_state(self, rows: int | None = None) -> ProgramState:
        """Empty carried state of all engines, for `generate` to go on with from call to call.

        Args:
            rows: that it is for; None: as many as the first call has.

        Raises:
            FeedError: an engine does not take so many rows.
        """
        if rows is not None:
            for stage in self.settings.stages:
                check_rows(rows, self.interface(stage))
        return self.program.new_state(rows)

    def generate(self, inputs: Mapping[str, Array], state: ProgramState | None = None) -> dict[str, Array]:
        """Run every stage.

        Args:
            inputs: arrays by name: those of `self.inputs`.
            state: from `new_state`, which this call goes on with and advances; None begins anew. After a call that
                failed in a later stage it is in between: make a new one.

        Returns:
            Arrays by name: those of `self.outputs`, in their order.

        Raises:
            InputError: an input is missing or unknown, or of another dtype or shape than its engine takes, or does not
                fit into the state any more.
            EngineError: an engine failed.
        """
        self.check_inputs(inputs)
        state = self.program.new_state() if state is None else state
        tensors = dict(inputs)
        for stage in self.settings.stages:
            session = self.program.session(self.roles[stage.role])
            feeds = {spec.name: tensors[spec.name] for spec in session.interface.inputs}
            tensors.update(self._run(stage, feeds, state))
        return {name: tensors[name] for name in self.outputs}

    def check_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Refuse inputs that the stages do not take, before any of them runs.

        Raises:
            InputError: names the input, what was found and what is expected.
        """
        if not isinstance(inputs, Mapping):
            raise InputError(f"the inputs are a {type(inputs).__name__}", hint="must be arrays by name")
        if inputs.keys() != self.inputs.keys():
            missing = sorted(self.inputs.keys() - inputs.keys())
            extra = sorted(map(str, inputs.keys() - self.inputs.keys()))
            raise InputError(
                "; ".join(
                    [f"input {name!r} is missing" for name in missing]
                    + [f"input {name!r} is not known" for name in extra]
                ),
                hint=f"this pipeline takes {', '.join(map(_shown, self.inputs.values()))}",
            )
        for checker, names in self._checkers:
            checker.check({name: inputs[name] for name in names})

    def _run(self, stage: Stage, feeds: dict[str, Array], state: ProgramState) -> dict[str, Array]:
        engine, given = self.roles[stage.role], dict[str, Array]()
        for _ in range(stage.repeat):
            feeds.update({taken: given[output] for output, taken in stage.feedback.items() if given})
            given = self.program.run(engine, feeds, state)
        return given


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name!r} {spec.dtype} [{', '.join(map(str, spec.shape))}]"


def _wire(stages: list[tuple[Stage, Interface]]) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Inputs and outputs of the whole row, by name."""
    inputs: dict[str, TensorSpec] = {}
    given: dict[str, TensorSpec] = {}
    fed_back: dict[str, str] = {}
    left: dict[str, TensorSpec] = {}
    for stage, interface in stages:
        for spec in interface.inputs:
            if spec.name in fed_back:
                raise ConfigError(
                    f"stage {stage.role!r} takes {spec.name!r}, which stage {fed_back[spec.name]!r} feeds back to "
                    "itself: the first value or the last one?",
                    hint="give the tensor another name, or name the output that is fed back",
                )
            known = given.get(spec.name) or inputs.setdefault(spec.name, spec)
            _check_fit(f"stage {stage.role!r} takes {spec.name!r}", spec, known)
            left.pop(spec.name, None)
        _check_repeat(stage, interface)
        fed_back |= dict.fromkeys(stage.feedback.values(), stage.role)
        for spec in interface.outputs:
            if spec.name in given or spec.name in inputs:
                raise ConfigError(
                    f"stage {stage.role!r} gives {spec.name!r}, a name that is taken", hint="every tensor has its own"
                )
            given[spec.name] = left[spec.name] = spec
    return inputs, left


def _check_repeat(stage: Stage, interface: Interface) -> None:
    outputs = {spec.name: spec for spec in interface.outputs}
    inputs = {spec.name: spec for spec in interface.inputs}
    for output, taken in stage.feedback.items():
        for side, name, known in (("output", output, outputs), ("input", taken, inputs)):
            if name not in known:
                raise ConfigError(
                    f"stage {stage.role!r} feeds {output!r} back to {taken!r}, its engine has no {side} {name!r}",
                    hint=f"it has {', '.join(known)}",
                )
        _check_fit(f"stage {stage.role!r} feeds {output!r} back to {taken!r}", inputs[taken], outputs[output])
    if stage.repeat > 1 and not stage.feedback and not interface.state:
        raise ConfigError(
            f"stage {stage.role!r} would do the same {stage.repeat:,} times",
            hint="feed an output back, or let it run once",
        )


def _check_fit(what: str, wanted: TensorSpec, found: TensorSpec) -> None:
    sizes = list(_sizes(wanted, found))
    if wanted.dtype != found.dtype or len(wanted.shape) != len(found.shape) or any(a != b for a, b in sizes):
        raise ConfigError(
            f"{what}: {_shown(found)} does not fit {_shown(wanted)}", hint="dtype and sizes must be the same"
        )


def _sizes(wanted: TensorSpec, found: TensorSpec) -> Iterator[tuple[int, int]]:
    """Sizes that both name as numbers; what a dimension's name stands for is known when it runs."""
    for a, b in zip(wanted.shape, found.shape, strict=False):
        if isinstance(a, int) and isinstance(b, int):
            yield a, b


def typical_inputs(pipeline: TensorsPipeline) -> dict[str, Array]:
    """Zeros for every input, of typical sizes, or the smallest that the engines take; integers are the least."""
    typical = pipeline.settings.typical_sizes
    sizes: dict[str, int] = {}
    for stage in pipeline.settings.stages:
        interface = pipeline.interface(stage)
        for dim in interface.dims:
            least = max(sizes.get(dim.name, 1), dim.nearest(typical.get(dim.name, 1)))
            sizes[dim.name] = 0 if dim.name == interface.growing_dim else least  # no step is held at first
    arrays = {}
    for name, spec in pipeline.inputs.items():
        high = spec.high_at(sizes)
        least = spec.low or 0 if high is None or high > 0 else high - 1
        arrays[name] = np.full(shape_value(spec.shape, sizes), least, dtype=spec.dtype)
    return arrays
