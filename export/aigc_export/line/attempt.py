"""One attempt of an export: build the engines of all parts, measure their quality, and hold them against PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_calibration.onnx_file import SharedWeights
from aigc_calibration.quantize import Quantized
from aigc_export.line.quality import QualityMeter
from aigc_export.parity.check import check_parity
from aigc_export.parity.device_limits import Settled, settle
from aigc_export.parity.reference import Case, Generation
from aigc_export.prepare.prepare import PreparedModel, Reporter
from aigc_export.prepare.request import build_engine
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import EngineUnderTest
from aigc_export.workloads import get_workload
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program, Vectors
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.progress import Progress
from aigc_runtime.proof.verify import ParityReport

__all__ = ["WEIGHTS_FILE", "Attempt", "Proof"]

WEIGHTS_FILE = "shared.weights"
"""The name of the file of weights that several engines read."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Engines that were built and judged.

    Attributes:
        quantized: part -> what it was built from, of those that are quantized.
        built: part -> its engine.
        candidate: the engines, opened.
        scores: their quality beside PyTorch.
        decided: parity, and the limits that a bundle of them carries.
        folder: where the engines' files lie.
    """

    quantized: Mapping[str, Quantized]
    built: Mapping[str, EngineUnderTest]
    candidate: OpenProgram
    scores: Scores
    decided: Settled
    folder: Path

    def discard(self) -> None:
        """Close the engines and remove their files."""
        self.candidate.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def report(self) -> ParityReport:
        """Parity, as it was decided."""
        return self.decided.report


@dataclass(frozen=True, kw_only=True)
class Proof:
    """All that attempts of one export are judged by.

    Attributes:
        program: the model.
        prepared: its parts.
        recipe: of the export.
        cases: PyTorch's arrays.
        generation: PyTorch's generation.
        vectors: texts and chats that are replayed; None for a model without a tokenizer of a file.
        quality: measures engines beside PyTorch.
        reporter: called after every stage.
        progress: called after every step of an engine's compilation.
    """

    program: Program
    prepared: Sequence[PreparedModel]
    recipe: ExportRecipe
    cases: Sequence[Case]
    generation: Generation
    vectors: Vectors | None
    quality: QualityMeter
    reporter: Reporter
    progress: Progress | None

    def attempt(self, quantized: Mapping[str, Quantized], folder: Path) -> Attempt:
        """Build engines and judge them.

        Args:
            quantized: part -> what it is built from; the others are built in float.
            folder: where the files go; it is made.

        Raises:
            AigcError: an engine cannot be built or run.
        """
        program, recipe = self.program, self.recipe
        folder.mkdir()
        shared = SharedWeights(folder / WEIGHTS_FILE) if len(self.prepared) > 1 else None
        built = {one.part.name: self._build(one, quantized, folder, shared) for one in self.prepared}
        candidate = OpenProgram({name: e.candidate for name, e in built.items()}, program.states, program.assets)
        try:
            scores = self.quality.measure(built)
            report = check_parity(
                candidate,
                program,
                name=recipe.name,
                target=recipe.target.name,
                precision=recipe.stored_precision,
                cases=self.cases,
                generation=self.generation,
                scores=scores,
                tolerances=recipe.tolerances,
                text=None if self.vectors is None else self.vectors.data,
            )
        except BaseException:
            candidate.close()
            raise
        decided = settle(report, recipe.tolerances, get_workload(program.kind), scores)
        return Attempt(
            quantized=quantized, built=built, candidate=candidate, scores=scores, decided=decided, folder=folder
        )

    def _build(
        self, prepared: PreparedModel, quantized: Mapping[str, Quantized], folder: Path, shared: SharedWeights | None
    ) -> EngineUnderTest:
        """Build the engine of a part."""
        name, program = prepared.part.name, self.program
        low = quantized.get(name)
        graph, plan = (prepared.graph, None) if low is None else (low.graph, low.plan)
        recipe = self.recipe.of_part(name)
        built = build_engine(prepared, graph, plan, recipe, folder, shared=shared, progress=self.progress)
        of = "" if len(program.parts) == 1 else f"{name}: "
        self.reporter.report("build", f"{of}{built.engine.kind}, {built.engine.size_bytes / 1e6:.2f} MB{built.summary}")
        return built
