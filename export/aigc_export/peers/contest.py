"""A language model's bundle beside other runtimes: what their models are built from, and the text for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_export.line.origin import find_evaluation, load_original, recorded_weights
from aigc_export.peers.catalog import Contestant
from aigc_export.peers.race import Race, Result, Runner, race
from aigc_export.workloads.evaluate import program_evaluation
from aigc_export.workloads.samples.text import engines_of
from aigc_models.evaluation.quality import WINDOW, session_logits
from aigc_models.evaluation.side_by_side import remembered
from aigc_models.evaluation.windows import draw_tokens, draw_windows
from aigc_models.torch_session import open_torch
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines import get_kind
from aigc_runtime.pipelines.text_tokenizer import text_tokenizer

__all__ = ["THIS_BUNDLE", "Contest", "ContestPlan", "hold"]

THIS_BUNDLE = "this bundle"
SEED = 1
REMEMBERED_LOGITS = 2**28
"""Of PyTorch, for every runner: 1 GiB."""


@dataclass(frozen=True, kw_only=True)
class ContestPlan:
    """What is timed and judged.

    Attributes:
        prompts: read and continued at once.
        prompt_tokens: of each, which is text that models are evaluated on.
        new_tokens: generated behind each, from 2 on.
        rounds: turns of each runtime.
        windows: of text that every runtime is judged on; 0 judges none.
    """

    prompts: int = 1
    prompt_tokens: int = 128
    new_tokens: int = 64
    rounds: int = 5
    windows: int = 8


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What was found.

    Attributes:
        results: the bundle's first.
        data: the text.
        notes: for the user.
        prompts: read and continued at once.
        prompt_tokens: of each, fewer than planned where the context or the text is short.
        new_tokens: behind each.
    """

    results: tuple[Result, ...]
    data: str
    notes: tuple[str, ...]
    prompts: int
    prompt_tokens: int
    new_tokens: int


def hold(
    bundle: Bundle,
    contestants: Sequence[Contestant],
    plan: ContestPlan,
    *,
    threads: int,
    folder: Path,
    beside: Sequence[str] = (),
    checkpoint: str | None = None,
    model: str | None = None,
    eval_data: str | None = None,
    sources: Mapping[str, str] | None = None,
    pythons: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Contest:
    """Time and judge a bundle and others in turn.

    Args:
        bundle: of a language model.
        contestants: the others.
        plan: what is done.
        threads: of every runtime.
        folder: for the models of the others; those that are there already are taken.
        beside: further bundles of the same model, which take part under the names of their folders.
        checkpoint: weights of the bundle's model, see `load_original`.
        model: code of the user's own that makes it.
        eval_data: text to read and to be judged on; None takes that of the export.
        sources: runtime -> what its model is built from, where that is not what the bundle was made from.
        pythons: runtime -> the Python that runs it, where that is not this one.
        tell: takes a sentence before each long part.

    Raises:
        ConfigError: a bundle of another kind.
        BundleError: the bundle's model is not known, see `load_original`, or one of `beside` is none.
        CheckpointError: its weights are not there, damaged or others.
        InputError: the text is too short.
    """
    settings: Any = bundle.manifest.pipeline.settings
    if get_kind(bundle.manifest.pipeline.kind).chat is None:
        raise ConfigError(
            f"the bundle is of the kind {bundle.manifest.pipeline.kind!r}, --against times language models",
            hint="leave --against out: bench alone times it beside PyTorch",
        )
    for path in beside:
        Bundle.open(path)  # what is none is refused before anything takes time
    tell("loading PyTorch's model")
    program = load_original(bundle, checkpoint, model=model)
    evaluation, notes = find_evaluation(bundle.manifest, lambda data: program_evaluation(program, data), eval_data)
    tokenizer = text_tokenizer(settings, program.assets)
    new = max(2, min(plan.new_tokens, settings.context_length // 2))
    ids = draw_tokens(evaluation.documents, tokenizer, count=plan.prompts, length=plan.prompt_tokens, seed=SEED)
    length = min(plan.prompt_tokens, settings.context_length - new, len(ids) // plan.prompts)
    rows = tuple(tuple(ids[at * length : (at + 1) * length].tolist()) for at in range(plan.prompts))
    if not length:
        few = "no token" if not len(ids) else f"{len(ids):,} tokens, fewer than there are prompts"
        raise InputError(f"the text to read gives {few}", hint="name another with --eval-data")
    windows = reference = None
    if plan.windows:
        window = min(WINDOW, settings.context_length)
        windows = draw_windows(evaluation.documents, tokenizer, count=plan.windows, length=window, seed=SEED)
        session = open_torch(program).session(engines_of(program.engines)[0])
        reference = remembered(session_logits(session), most=REMEMBERED_LOGITS)
    built_from = recorded_weights(bundle.manifest) if checkpoint is None else checkpoint
    runners = [Runner(name=THIS_BUNDLE, contestant=None, source=str(bundle.path))]
    runners += [Runner(name=Path(path).name, contestant=None, source=path) for path in beside]
    for one in contestants:
        source = (sources or {}).get(one.peer.name) or _source(one, built_from)
        runners.append(Runner(name=one.name, contestant=one, source=source, python=(pythons or {}).get(one.peer.name)))
    run = Race(
        rows=rows,
        new_tokens=new,
        rounds=plan.rounds,
        threads=threads,
        windows=windows,
        reference=reference,
    )
    results = race(runners, run, folder, tell=tell)
    return Contest(
        results=results,
        data=evaluation.data,
        notes=notes,
        prompts=plan.prompts,
        prompt_tokens=length,
        new_tokens=new,
    )


def _source(contestant: Contestant, built_from: str | None) -> str:
    """What a runtime's model is built from, if the bundle's own source is of its form; else nothing."""
    if built_from is None:
        return ""
    path, suffix = Path(built_from), contestant.peer.suffix
    if suffix:
        return str(path) if path.suffix == suffix else ""
    return str(path) if (path / "config.json").is_file() else ""
