"""Time a bundle and other runtimes on the same prompt, in turn, and judge what each of them computes."""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aigc_export.peers.catalog import ENGINES, Contestant
from aigc_export.peers.process import WorkerProcess
from aigc_models.evaluation.metrics import Logits
from aigc_models.evaluation.side_by_side import score_side_by_side, weighted_mean
from aigc_models.evaluation.windows import Windows
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, EngineError, EngineMissingError, InputError

__all__ = ["Judgment", "Laps", "Race", "Result", "Runner", "race"]

COLD_TOKENS = 16
"""Of the prompt that a process reads first."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """One side of a race.

    Attributes:
        name: that results are told by.
        contestant: the runtime and form; None: this product's own.
        source: what its model is built from; of this product the bundle, which is built already.
        python: that runs it; None: the Python that runs this.
    """

    name: str
    contestant: Contestant | None
    source: str
    python: str | None = None

    @property
    def engine(self) -> Path:
        """File that runs it."""
        return ENGINES / "this_bundle.py" if self.contestant is None else self.contestant.peer.engine

    @property
    def form(self) -> str:
        """Of its model."""
        return "" if self.contestant is None else self.contestant.form


@dataclass(frozen=True, kw_only=True)
class Laps:
    """Times of a runner: for each round the seconds of the prompts, and of every token after the first of each."""

    prompts: tuple[float, ...]
    steps: tuple[tuple[float, ...], ...]

    @property
    def prompt_ms(self) -> float:
        """Reading the prompts, with the choice of the first token: the median over rounds."""
        return statistics.median(self.prompts) * 1e3

    def token_ms(self, share: float = 0.5) -> float:
        """A token of each prompt: the median over rounds, or what `share` of all tokens of all rounds took at most."""
        if share == 0.5:
            return statistics.median(map(statistics.median, self.steps)) * 1e3
        ordered = sorted(seconds for one in self.steps for seconds in one)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """What a runner's logits are worth beside PyTorch's on the same windows of text; (value, standard error).

    Attributes:
        perplexity: of a token.
        increase: of the perplexity over PyTorch's, as a share.
        divergence: Kullback-Leibler, nats.
        agreement: share of places with the same likeliest token.
    """

    perplexity: float
    increase: tuple[float, float]
    divergence: tuple[float, float]
    agreement: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a runner.

    Attributes:
        name: its.
        version: of its runtime; empty where it could not be asked.
        failed: why nothing more is known; empty where it was timed.
        size_bytes: of all files of its model.
        cold_s: from the start of its process to the first token behind `COLD_TOKENS`.
        peak_bytes: most memory that its process had resident while it was timed; None where the system does not say.
        laps: its times.
        tokens: of its first round, the likeliest ones behind the first prompt.
        judgment: None where it was not judged.
    """

    name: str
    version: str = ""
    failed: str = ""
    size_bytes: int = 0
    cold_s: float = math.nan
    peak_bytes: int | None = None
    laps: Laps | None = None
    tokens: tuple[int, ...] = ()
    judgment: Judgment | None = None


@dataclass
class _Times:
    """Of a runner, while it is timed; as in `Laps`."""

    prompts: list[float] = field(default_factory=list)
    steps: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Race:
    """Who runs what.

    Attributes:
        rows: the tokens of each prompt, all of one length; they are read and continued at once.
        new_tokens: that are generated behind it, at least 2.
        rounds: how often each runner has its turn.
        threads: of every runner.
        windows: that runners are judged on; None judges nobody.
        reference: PyTorch's logits of them.
    """

    rows: tuple[tuple[int, ...], ...]
    new_tokens: int
    rounds: int
    threads: int
    windows: Windows | None = None
    reference: Logits | None = None


def race(
    runners: Sequence[Runner], run: Race, folder: Path, *, tell: Callable[[str], None] = lambda _: None
) -> tuple[Result, ...]:
    """Build what is to be built, then let the runners take turns, each in a process that stays open.

    Every second round runs backwards, so that none is always behind the same other. Judging comes last: its memory is
    not counted.

    Args:
        runners: who takes part; one that cannot is told with its reason, and the others go on.
        run: what they do.
        folder: for models that are built; what is there already is taken.
        tell: takes a sentence before each long part.
    """
    results: dict[str, Result] = {}
    with ExitStack() as stack:
        ready: dict[str, WorkerProcess] = {}
        for runner in runners:
            try:
                model = _built(runner, folder, tell)
                tell(f"opening {runner.name}")
                results[runner.name], process = _opened(runner, model, run)
                stack.callback(process.close)
                ready[runner.name] = process
            except AigcError as err:
                results[runner.name] = Result(name=runner.name, failed=_reason(runner, err))
        tell(f"timing {', '.join(ready)}")
        results |= _timed({name: results[name] for name in ready}, ready, run)
        for name, process in ready.items():
            if results[name].failed or run.windows is None or run.reference is None:
                continue
            tell(f"judging {name}")
            try:
                judgment = _judged(process, run.windows, run.reference)
                results[name] = replace(results[name], judgment=judgment)
            except AigcError as err:
                results[name] = replace(results[name], failed=f"not judged: {err.message}")
    return tuple(results[runner.name] for runner in runners)


def _reason(runner: Runner, err: AigcError) -> str:
    if isinstance(err, EngineMissingError) and runner.contestant is not None:
        return f"{err.message}; {runner.contestant.peer.install}"
    return f"{err.message}: {err.hint}" if err.hint else err.message


def _built(runner: Runner, folder: Path, tell: Callable[[str], None]) -> Path:
    """The folder of a runner's model, which is made where it is not there."""
    if runner.contestant is None:
        return Path(runner.source)
    if not runner.source:
        peer = runner.contestant.peer
        wanted = f"a {peer.suffix} file" if peer.suffix else "a folder of transformers"
        raise InputError(
            f"its model is built from {wanted}, which the bundle was not made from",
            hint=f"name one with --peer-source {peer.name}=PATH",
        )
    place = folder / runner.contestant.name.replace(":", "-")
    if not place.exists():
        tell(f"building {runner.name}")
        making = place.with_name(f"{place.name}.making")
        shutil.rmtree(making, ignore_errors=True)  # of a build that failed
        making.mkdir(parents=True)
        with WorkerProcess(runner.engine, python=runner.python) as process:
            process.ask("build", source=runner.source, form=runner.form, into=str(making))
        making.rename(place)
    return place


def _opened(runner: Runner, model: Path, run: Race) -> tuple[Result, WorkerProcess]:
    started = time.perf_counter()
    process = WorkerProcess(runner.engine, python=runner.python)
    try:
        process.ask("open", folder=str(model), form=runner.form, threads=run.threads)
        process.ask("generate", rows=[list(run.rows[0][:COLD_TOKENS])], tokens=1)
        cold = time.perf_counter() - started
        version = process.ask("version")["version"]
    except BaseException:
        process.close()
        raise
    size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    return Result(name=runner.name, version=version, size_bytes=size, cold_s=cold), process


def _timed(opened: Mapping[str, Result], ready: Mapping[str, WorkerProcess], run: Race) -> dict[str, Result]:
    """The results with what timing finds."""
    found = {name: _Times() for name in ready}
    results = dict(opened)
    for number in range(-1, run.rounds):  # the first round warms up
        for name in list(ready)[:: 1 if number % 2 else -1]:
            if results[name].failed:
                continue
            try:
                answer = ready[name].ask("generate", rows=[list(ids) for ids in run.rows], tokens=run.new_tokens)
            except EngineError as err:
                results[name] = replace(results[name], failed=err.message)
                continue
            if number < 0:
                results[name] = replace(results[name], tokens=tuple(answer["tokens"]))
            else:
                found[name].prompts.append(answer["prompt"])
                found[name].steps.append(tuple(answer["steps"]))
    for name, times in found.items():
        if not results[name].failed:
            laps = Laps(prompts=tuple(times.prompts), steps=tuple(times.steps))
            results[name] = replace(results[name], laps=laps, peak_bytes=ready[name].ask("peak")["peak"])
    return results


def _of_width(logits: Array, width: int) -> Array:
    """Refuse logits [1, S, V] of another vocabulary."""
    if logits.shape[-1] != width:
        raise EngineError(
            f"it gives logits of {logits.shape[-1]:,} tokens, PyTorch's model of {width:,}",
            hint="it was built from another model: name the right one with --peer-source",
        )
    return logits


def _judged(process: WorkerProcess, windows: Windows, reference: Logits) -> Judgment:
    width = next(iter(reference(windows.ids[:1, :-1]))).shape[-1]
    with tempfile.TemporaryDirectory(prefix="aigc-judge-") as scratch:
        file = Path(scratch) / "logits.npy"

        def logits(ids: Array) -> Iterator[Array]:
            for row in ids:  # one, since windows are judged one by one
                process.ask("positions", ids=row.tolist(), file=str(file))
                yield _of_width(np.load(file)[None], width)

        found = score_side_by_side(reference, logits, windows, batch=1)
    gap, error = weighted_mean(found.nats - found.reference_nats, found.lengths)
    ratio = math.exp(gap)
    return Judgment(
        perplexity=math.exp(float(found.nats.sum() / found.lengths.sum())),
        increase=(ratio - 1, ratio * error),
        divergence=weighted_mean(found.kl, found.lengths),
        agreement=weighted_mean(found.agreeing, found.lengths),
    )
