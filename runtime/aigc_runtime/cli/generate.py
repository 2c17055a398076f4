"""The verbs `generate` and `chat`: what they take and write is the business of the bundle's kind of pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from contextlib import nullcontext

from aigc_runtime.bundle.runnable import idle_pipeline
from aigc_runtime.cli.bundle import open_bundle
from aigc_runtime.cli.main import Parser
from aigc_runtime.cli.threads import chosen_threads
from aigc_runtime.errors import InputError
from aigc_runtime.io.report import check_outputs
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines import KINDS, PipelineKind, get_kind
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.system.memory_bound import bounded_memory

__all__ = ["add_options", "chat", "generate"]

VerbOf = Callable[[PipelineKind], "Verb | None"]
"""Gives the verb of a kind; None for a kind that has none."""


def _generate_of(kind: PipelineKind) -> Verb:
    return kind.verb()


def _chat_of(kind: PipelineKind) -> Verb | None:
    return None if kind.chat is None else kind.chat()


_VERBS: dict[str, VerbOf] = {"generate": _generate_of, "chat": _chat_of}


def _known_options(verb_of: VerbOf) -> dict[str, Option]:
    """The options of every kind in the table that has the verb, each once."""
    verbs = [verb for kind in KINDS.values() if (verb := verb_of(kind)) is not None]
    return {option.name: option for verb in verbs for option in verb.options}


def add_options(
    parser: argparse.ArgumentParser, options: Iterable[Option] | None = None, *, verb: str = "generate"
) -> None:
    """Let a parser take options; None are those of a verb, of every kind in the table."""
    groups = {"options": parser}
    for option in _known_options(_VERBS[verb]).values() if options is None else options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)  # type: ignore[assignment]
        groups[option.group].add_argument(
            *option.flags,
            dest=option.name,
            type=option.type,
            metavar=option.metavar,
            help=option.help,
            action="append" if option.repeated else "store",
        )


def generate(arguments: argparse.Namespace) -> int:
    """Generate with the bundle's pipeline, of whatever kind it is.

    Raises:
        InputError: a request that cannot be carried out; nothing was run.
    """
    return _run(arguments, _generate_of)


def chat(arguments: argparse.Namespace) -> int:
    """Hold a conversation with the bundle's pipeline.

    Raises:
        InputError: a kind that cannot, or a bad option; nothing was run.
    """
    return _run(arguments, _chat_of)


def _run(arguments: argparse.Namespace, verb_of: VerbOf) -> int:
    bundle = open_bundle(arguments)
    manifest = bundle.manifest
    kind = get_kind(manifest.pipeline.kind)
    verb = verb_of(kind)
    if verb is None:
        raise InputError(
            f"{arguments.verb} means nothing to a {kind.name} bundle", hint="`generate` takes bundles of every kind"
        )
    _read_more(arguments, verb, verb_of)
    _refuse_foreign_options(arguments, kind, verb, verb_of)
    # Checked before the engine is loaded: a user who forgot something should not wait.
    job = verb.prepare(arguments, idle_pipeline(manifest))
    check_outputs(job.output)
    # An engine on a GPU reserves more addresses than there is memory.
    low_memory = getattr(arguments, "low_memory", False)
    threads = chosen_threads(bundle, arguments.threads, low_memory=low_memory)
    # One that is loaded late takes what it needs then.
    bounded = job.bounds_memory and not low_memory and all(engine.runs_on_cpu for engine in manifest.engines.values())
    # The engine's threads are there before the bound is: their stacks are promised and hardly used.
    with (
        open_pipeline(bundle, threads=threads, low_memory=low_memory) as pipeline,
        bounded_memory() if bounded else nullcontext(),
    ):
        job.run(pipeline)
    job.report()
    return 0


def _read_more(arguments: argparse.Namespace, verb: Verb, verb_of: VerbOf) -> None:
    """Read what the parser did not know: options of a kind that is not in the table."""
    known = _known_options(verb_of)
    own = [option for option in verb.options if option.name not in known]
    for option in own:
        setattr(arguments, option.name, None)
    parser = Parser(prog=arguments.verb, add_help=False)
    add_options(parser, own)
    _, left = parser.parse_known_args(arguments.more, arguments)
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")


def _refuse_foreign_options(arguments: argparse.Namespace, kind: PipelineKind, verb: Verb, verb_of: VerbOf) -> None:
    taken = {option.name: option for option in verb.options}
    for name, option in _known_options(verb_of).items():
        if getattr(arguments, name) is not None and name not in taken:
            raise InputError(
                f"{option.flags[-1]} means nothing to a {kind.name} bundle",
                hint=f"it takes {', '.join(own.flags[-1] for own in taken.values())}",
            )
