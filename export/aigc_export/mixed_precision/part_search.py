"""Search for the precision of every part of a program: measure each part alone, add up, run what promises most.

1. Build each part in every precision that could pay, and measure the results of the whole pipeline with this part alone
   in it, the time that its runs take of one generation, and its bytes.
2. The noise of parts adds up, and so do time and bytes: list the combinations that none is as cheap and as exact as.
3. Find the cheapest of them that keeps the budget. The sum says where to look; every answer is a real run of the whole
   pipeline, evaluated beside PyTorch.

What is evaluated may not run every part: nothing measured says what few bits would cost it, so it stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aigc_calibration.errors import PlanError
from aigc_calibration.search.journal import JOURNAL_FILE, Journal, measuring_environment
from aigc_calibration.search.sensitivity import CONFIDENCE_SIGMAS, decibels
from aigc_export.mixed_precision.candidates import Built, evaluation_key
from aigc_export.mixed_precision.combinations import pareto_combinations
from aigc_export.mixed_precision.descent import smallest
from aigc_export.mixed_precision.outcome import unkept, write_report
from aigc_export.mixed_precision.part_candidates import PartCandidates
from aigc_export.mixed_precision.part_verdict import (
    PartOption,
    Tried,
    candidate_reports,
    choose,
    kept_parts,
    part_reports,
)
from aigc_export.mixed_precision.plain import plain_build, plain_precisions
from aigc_export.mixed_precision.report import SearchReport
from aigc_export.parity.reference import Case
from aigc_export.prepare.prepare import PreparedModel, Stage
from aigc_export.recipes.budget import Budget, holds, limit_noise, measured_noise, parse_budget, shown
from aigc_export.recipes.part_precisions import DEFAULT, precisions_text
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.recipes.tolerances import searched_limits
from aigc_export.targets.base import check_precision
from aigc_export.workloads import Workload, get_workload
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.evaluation.paired import Scores
from aigc_models.torch_session import open_torch
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import ConfigError

__all__ = ["PartsResult", "search_parts"]

UNJUDGED = (
    "what is compared does not run it, so that nothing says what fewer bits would cost: "
    "name its precision, as in --precision auto,{part}=fp16"
)


@dataclass(frozen=True, kw_only=True)
class PartsResult:
    """What was chosen of every part, and the report of the search."""

    builds: Mapping[str, Built]
    report: SearchReport


def search_parts(
    prepared: Sequence[PreparedModel],
    recipe: ExportRecipe,
    config: SearchConfig,
    stage: Stage,
    *,
    cases: Sequence[Case],
    progress: Progress | None = None,
) -> PartsResult:
    """Search for the precisions of the parts of a program.

    Args:
        prepared: the float graph of every part and its data.
        recipe: of the export; parts that it names stay in their precision.
        config: budget and objective.
        stage: called after every stage.
        cases: of the proof: an engine whose outputs miss the limits of its precision is no candidate.
        progress: called after every batch of calibration.

    Raises:
        BudgetError: not even the most exact precisions keep the budget.
        ConfigError: a target whose engine cannot run here, or a budget on what is not measured.
        AigcError: any stage failed.
    """
    started = time.perf_counter()
    check_precision(recipe.target, "auto")
    workload = get_workload(prepared[0].program.kind)
    counted = _counted(config.budgets, workload)
    journal = Journal(
        None if config.folder is None else config.folder / JOURNAL_FILE,
        environment=f"{recipe.target.name}, {measuring_environment()}",
    )
    found = _Search(
        prepared=prepared,
        recipe=recipe,
        config=config,
        stage=stage,
        workload=workload,
        counted=counted,
        candidates=_candidates(prepared, recipe, config, workload, journal),
    )
    found.run_base()
    for one in prepared:
        found.run_alone(one, cases, progress)
    found.run_combinations()
    tried = list(found.tried.values())
    chosen, verdict = choose(tried, config.budgets, counted, config.objective)
    stage("search", verdict)
    report = SearchReport(
        model=recipe.name,
        target=recipe.target.name,
        objective=config.objective,
        budgets=config.budgets,
        verdict=verdict,
        candidates=candidate_reports(tried, chosen, config.budgets),
        pairs={},
        kept=kept_parts(found.options, found.refused, chosen, config.budgets),
        evaluated=found.candidates.evaluated,
        reused=journal.reused,
        seconds=round(time.perf_counter() - started, 3),
        timed="generation",
        parts=part_reports(found.options, chosen, config.budgets),
    )
    if config.folder is not None:
        write_report(report, config.folder, stage)
    return PartsResult(
        builds={part: found.candidates.builds[part][one.precision] for part, one in chosen.options.items()},
        report=report,
    )


def _counted(budgets: Sequence[Budget], workload: Workload) -> Budget:
    """Choose the budget whose measure the model of noise adds up: the user's first that can be, or the kind's own."""
    for budget in (*budgets, parse_budget(workload.budget, workload)):
        if limit_noise(budget) is not None:
            return budget
    raise ConfigError(
        f"no measure of a {workload.kind} model is in decibels or an increase of a loss, so that none adds up",
        hint="choose a precision for each part: --precision PART=PRECISION,...",
    )


def _candidates(
    prepared: Sequence[PreparedModel], recipe: ExportRecipe, config: SearchConfig, workload: Workload, journal: Journal
) -> PartCandidates:
    program, evaluation = prepared[0].program, prepared[0].evaluation
    samples = config.samples_for(workload, program.parameters)
    return PartCandidates(
        prepared={one.part.name: one for one in prepared},
        recipe=recipe,
        base={one.part.name: recipe.parts.get(one.part.name, DEFAULT) for one in prepared},
        make_evaluator=lambda: make_evaluator(
            workload,
            open_torch(program),
            program.settings,
            evaluation=evaluation,
            samples=samples,
            seed=recipe.seed,
            roles=program.engines,
        ),
        key=evaluation_key(program, evaluation, samples=samples, seed=recipe.seed),
        journal=journal,
    )


@dataclass(kw_only=True)
class _Search:
    """What a search has found so far.

    Attributes:
        exact: scores of the base, where every part is in the most exact precision that it may have.
        ran: the parts that the evaluation runs.
        options: part -> what it could be in, that of the base first.
        refused: part -> why it is not in others.
        tried: name -> a pipeline that was run, the base first.
    """

    prepared: Sequence[PreparedModel]
    recipe: ExportRecipe
    config: SearchConfig
    stage: Stage
    workload: Workload
    counted: Budget
    candidates: PartCandidates
    exact: Scores = field(default_factory=Scores)
    ran: tuple[str, ...] = ()
    options: dict[str, list[PartOption]] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    tried: dict[str, Tried] = field(default_factory=dict)

    def run_base(self) -> None:
        """Run every part in the most exact precision that it may have."""
        base = self.candidates.base
        for one in self.prepared:
            self.candidates.add(one.part.name, plain_build(one, self.recipe, base[one.part.name]))
        found = self.candidates.evaluate({})
        if not holds(self.config.budgets, found.scores):
            raise unkept(precisions_text(base), self.config.budgets, found.scores, self.workload)
        self.exact, self.ran = found.scores, found.ran
        self.stage("budget", f"{precisions_text(base)}: {shown(self.config.budgets, found.scores)}")
        self.options = {part: [self._option(part, precision, found.scores)] for part, precision in base.items()}
        self._run({})

    def run_alone(self, one: PreparedModel, cases: Sequence[Case], progress: Progress | None) -> None:
        """Run the pipeline with one part in each lower precision that could pay, the others as in the base."""
        part = one.part.name
        if part in self.recipe.parts:
            self._refuse(part, "as you chose")
        elif part not in self.ran:
            self._refuse(part, UNJUDGED.format(part=part))
        else:
            for precision in plain_precisions(self.workload, self.recipe.target, self.config.objective):
                self._run_alone(one, precision, cases, progress)

    def _run_alone(self, one: PreparedModel, precision: str, cases: Sequence[Case], progress: Progress | None) -> None:
        part, budgets = one.part.name, self.config.budgets
        if precision not in self.workload.tolerances:
            self._refuse(
                part, f"{precision} could not be proven: the kind {self.workload.kind!r} states no limits for it"
            )
            return
        try:
            self.candidates.add(part, plain_build(one, self.recipe, precision, progress=progress))
        except PlanError as err:
            self._refuse(part, f"{precision} is not possible: {err.message}")
            return
        if missed := self._missed_limits(part, precision, cases):
            self._refuse(part, f"{precision} misses the limits of its proof (--tolerance sets others): {missed[0]}")
            return
        scores = self.candidates.evaluate({part: precision}).scores
        option = self._option(part, precision, scores)
        self.options[part].append(option)
        self._run({part: option})
        self.stage(
            "part",
            f"{part} in {precision}: {shown(budgets, scores)}, {option.size_bytes / 1e6:.2f} MB, "
            f"{option.ms:.3f} ms in {option.runs} runs",
        )

    def run_combinations(self) -> None:
        """Run combinations, down to the cheapest that keeps the budget."""
        ladder = [*pareto_combinations(self.options.values())]
        if all(option is self.options[part][0] for part, option in ladder[-1].choices.items()):
            ladder.pop()  # the base is known to keep it

        def keeps(index: int) -> bool:
            rung = ladder[index]
            one = self._run(rung.choices)
            kept = holds(self.config.budgets, one.scores)
            self.stage(
                "try",
                f"{one.name}: {shown(self.config.budgets, one.scores)}, model {self._predicted(rung.noise)}, "
                f"{'kept' if kept else 'missed'}",
            )
            return kept

        def guess() -> int:
            limit = limit_noise(self.counted)
            if limit is None or self.counted not in self.config.budgets:
                return len(ladder) // 2
            return next((i for i, rung in enumerate(ladder) if self._noise + rung.noise <= limit), len(ladder) - 1)

        if ladder:
            smallest(0, len(ladder) - 1, guess, keeps)

    @property
    def _noise(self) -> float:
        """The noise of the base."""
        return measured_noise(self.counted, self.exact) or 0.0

    def _predicted(self, added: float) -> str:
        noise = self._noise + added
        return f"{decibels(noise):.1f} dB" if self.counted.unit == "decibels" else f"{noise:.3g}"

    def _refuse(self, part: str, why: str) -> None:
        self.refused.setdefault(part, []).append(why)
        self.stage("part", f"{part}: {why}")

    def _run(self, options: Mapping[str, PartOption]) -> Tried:
        """Run a combination, the other parts as in the base; what was run before is not run again."""
        chosen = {part: options.get(part, own[0]) for part, own in self.options.items()}
        found = self.candidates.evaluate({part: option.precision for part, option in chosen.items()})
        one = Tried(options=chosen, scores=found.scores)
        return self.tried.setdefault(one.name, one)

    def _missed_limits(self, part: str, precision: str, cases: Sequence[Case]) -> tuple[str, ...]:
        """Hold a part against the limits on tensors that its proof will have, where these decide."""
        if self.workload.quality_decides:
            return ()
        limits = searched_limits(precision, self.config.budgets, self.recipe.tolerance, self.workload)
        return self.candidates.missed_limits(part, precision, cases, limits.tensor)

    def _option(self, part: str, precision: str, scores: Scores) -> PartOption:
        """Measure time and bytes of a part, whose scores are known."""
        candidates, base = self.candidates, next(iter(self.options.get(part, ())), None)
        timed, plan = candidates.time(part, precision), candidates.builds[part][precision].plan
        size, sites = candidates.size_bytes(part, precision), candidates.sites(part)
        left = sites if plan is None else sum(op.precision == "float" for op in plan.ops)
        # Of the base in other rounds: what is compared must have had the same disturbances.
        whole = timed.ms if base is None else base.ms
        ms, error = whole * timed.ratio, whole * timed.ratio_error
        is_told_apart = abs(1 - timed.ratio) > CONFIDENCE_SIGMAS * timed.ratio_error
        cost = {
            "latency": ms if is_told_apart else whole,
            "size": float(size),
            "ops": float(left),
        }[self.config.objective]
        noise = 0.0 if base is None else max((measured_noise(self.counted, scores) or 0.0) - self._noise, 0.0)
        return PartOption(
            part=part,
            precision=precision,
            cost=cost,
            noise=noise,
            runs=timed.runs,
            ms=ms,
            saved_ms=whole - ms,
            saved_ms_error=error,
            size_bytes=size,
            float_sites=left,
            scores=scores,
        )
