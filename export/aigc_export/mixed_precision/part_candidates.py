"""Candidates of a search over parts: whole pipelines that were really built, evaluated beside PyTorch and timed."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aigc_calibration.search.journal import Journal
from aigc_calibration.search.median import median_and_error
from aigc_calibration.sites import find_sites
from aigc_export.mixed_precision.candidates import Built
from aigc_export.mixed_precision.generation_runs import EngineRuns, record_generation, time_generations
from aigc_export.parity.reference import Case, Step
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.prepare.request import build_engine
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.workloads.recording import recorded
from aigc_models.evaluation.paired import Evaluator, Scores
from aigc_runtime.core.compare import Tolerance, compare_arrays, judge
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.system.temporary_folder import temporary_folder

__all__ = ["Evaluated", "PartCandidates", "PartTime"]

ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What the evaluation of a whole pipeline found.

    Attributes:
        scores: beside PyTorch.
        ran: the engines that it ran, in the order of their names.
    """

    scores: Scores
    ran: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """The time of one part in one generation.

    Attributes:
        runs: of its engine.
        ms: that they take.
        ratio: of that to the time of the base, in the same rounds.
        ratio_error: standard error of that.
    """

    runs: int
    ms: float
    ratio: float = 1.0
    ratio_error: float = 0.0


@dataclass(kw_only=True)
class PartCandidates:
    """Evaluates and times pipelines, each engine as its target builds it; what the journal holds is not measured again.

    Attributes:
        prepared: part -> the float graph and its data.
        recipe: its target and settings.
        base: part -> the most exact precision that it may have.
        make_evaluator: makes the evaluator when it is first needed, since PyTorch's side takes a while.
        key: names everything that an evaluation depends on, the engines aside.
        journal: of the search.
        builds: part -> precision -> what is built of it; more are added as the search goes on.
        evaluated: pipelines that were asked for.
    """

    prepared: Mapping[str, PreparedModel]
    recipe: ExportRecipe
    base: Mapping[str, str]
    make_evaluator: Callable[[], Evaluator]
    key: str
    journal: Journal
    builds: dict[str, dict[str, Built]] = field(default_factory=dict)
    evaluated: int = 0
    _known: dict[str, Evaluated] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _written: dict[str, int] = field(default_factory=dict)

    def add(self, part: str, built: Built) -> None:
        """Add a part in one more precision."""
        self.builds.setdefault(part, {})[built.precision] = built

    def evaluate(self, precisions: Mapping[str, str]) -> Evaluated:
        """Measure the quality of the whole pipeline beside PyTorch.

        Args:
            precisions: part -> precision; the other parts have that of the base.
        """
        chosen = self._chosen(precisions)
        key = f"pipeline {self._digests(chosen)} {self.key}"
        if key not in self._known:
            self.evaluated += 1
            self._known[key] = from_json(Evaluated, self.journal.remember(key, lambda: self._measure(chosen)))
        return self._known[key]

    def _measure(self, chosen: Mapping[str, Built]) -> Any:
        ran: set[str] = set()
        with self._open(chosen) as program:
            scores = self._evaluator(recorded(program, lambda engine, _feeds, _results: ran.add(engine)))
        return to_json(Evaluated(scores=scores, ran=tuple(sorted(ran))))

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self.make_evaluator()

    def missed_limits(self, part: str, precision: str, cases: Sequence[Case], tolerance: Tolerance) -> tuple[str, ...]:
        """Hold the outputs of one part against limits, on the cases of its proof; the reasons of the first that miss.

        Args:
            part: whose engine runs, and carries no state.
            precision: that it is in.
            cases: with PyTorch's outputs.
            tolerance: limits on every output.
        """

        def measure() -> list[str]:
            with self._open({part: self.builds[part][precision]}) as program:
                for case in cases:
                    for step in case.steps:
                        if step.engine == part and (reasons := _missed(program.session(part), step, tolerance)):
                            return [f"{case.name}: {reason}" for reason in reasons]
            return []

        digest = self.builds[part][precision].digest
        return tuple(self.journal.remember(f"proof {digest} {tolerance} {self.key}", measure))

    def time(self, part: str, precision: str) -> PartTime:
        """Measure a part in one generation, in alternating rounds with the base's precision of it."""
        own, base = self.builds[part][precision], self.builds[part][self.base[part]]
        pair = [own] if own is base else [base, own]

        def measure() -> Any:
            runs = self._runs.get(part, ())
            count = sum(one.count for one in runs)
            if not runs:
                return {"runs": 0, "rounds": [[0.0] * len(pair)]}
            with contextlib.ExitStack() as stack:
                sessions = [stack.enter_context(self._open({part: built})).session(part) for built in pair]
                return {"runs": count, "rounds": time_generations(sessions, runs, ROUNDS)}

        digests = " ".join(built.digest for built in pair)
        found = self.journal.remember(f"generation {digests} {self.recipe.threads} {self.key}", measure)
        rounds = [[float(ms) for ms in row] for row in found["rounds"]]
        ms = statistics.median(row[-1] for row in rounds)
        if own is base or not found["runs"]:
            return PartTime(runs=int(found["runs"]), ms=ms)
        ratio, error = median_and_error([after / before for before, after in rounds])
        return PartTime(runs=int(found["runs"]), ms=ms, ratio=ratio, ratio_error=error)

    @cached_property
    def _runs(self) -> dict[str, tuple[EngineRuns, ...]]:
        """What every engine is run on in one generation of the base."""
        program = next(iter(self.prepared.values())).program
        with self._open(self._chosen({})) as opened:
            return record_generation(opened, program.settings, program.engines)

    def size_bytes(self, part: str, precision: str) -> int:
        """Measure the size of the files of an engine."""
        built = self.builds[part][precision]

        def measure() -> int:
            if built.digest not in self._written:
                with self._open({part: built}):
                    pass
            return self._written[built.digest]

        if built.digest not in self._sizes:
            self._sizes[built.digest] = int(self.journal.remember(f"size {built.digest}", measure))
        return self._sizes[built.digest]

    def sites(self, part: str) -> int:
        """Count the sites of a part."""
        return len(find_sites(self.prepared[part].graph))

    def _chosen(self, precisions: Mapping[str, str]) -> dict[str, Built]:
        return {part: self.builds[part][precisions.get(part, self.base[part])] for part in self.prepared}

    @staticmethod
    def _digests(chosen: Mapping[str, Built]) -> str:
        return " ".join(f"{part}={built.digest}" for part, built in chosen.items())

    @contextlib.contextmanager
    def _open(self, chosen: Mapping[str, Built]) -> Iterator[OpenProgram]:
        with temporary_folder("candidate") as folder, contextlib.ExitStack() as stack:
            sessions = {part: stack.enter_context(self._session(part, b, folder)) for part, b in chosen.items()}
            program = next(iter(self.prepared.values())).program
            yield OpenProgram(sessions, program.states, program.assets)

    def _session(self, part: str, built: Built, folder: Path) -> Session:
        own = folder / part
        own.mkdir()
        under_test = build_engine(
            self.prepared[part], built.graph, built.plan, self.recipe, own, precision=built.precision
        )
        self._written[built.digest] = under_test.engine.size_bytes
        return under_test.candidate


def _missed(session: Session, step: Step, tolerance: Tolerance) -> tuple[str, ...]:
    """The reasons why outputs of one run miss the limits."""
    actual = session.run(step.inputs)
    return tuple(
        f"{name}: {reason}"
        for name, wanted in step.outputs.items()
        for reason in judge(compare_arrays(wanted, actual[name]), tolerance).reasons
    )
