"""The verb `generate` of `aigc-run`: what it takes and writes is the business of the bundle's kind of pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import nullcontext

from aigc_runtime.bundle.runnable import idle_pipeline
from aigc_runtime.cli.bundle import open_bundle
from aigc_runtime.cli.main import Parser
from aigc_runtime.errors import InputError
from aigc_runtime.io.report import check_outputs
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines import KINDS, PipelineKind, get_kind
from aigc_runtime.pipelines.kind import Option
from aigc_runtime.system.memory_bound import bounded_memory

__all__ = ["add_options", "generate"]


def _known_options() -> dict[str, Option]:
    """The options of every kind in the table, each once."""
    return {option.name: option for kind in KINDS.values() for option in kind.verb().options}


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option] | None = None) -> None:
    """Let a parser take options; None are those of every kind in the table."""
    groups = {"options": parser}
    for option in _known_options().values() if options is None else options:
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
    bundle = open_bundle(arguments)
    manifest = bundle.manifest
    kind = get_kind(manifest.pipeline.kind)
    _read_more(arguments, kind)
    _refuse_foreign_options(arguments, kind)
    # Checked before the engine is loaded: a user who forgot something should not wait.
    job = kind.verb().prepare(arguments, idle_pipeline(manifest))
    check_outputs(job.output)
    # An engine on a GPU reserves more addresses than there is memory.
    bounded = job.bounds_memory and all(engine.runs_on_cpu for engine in manifest.engines.values())
    # The engine's threads are there before the bound is: their stacks are promised and hardly used.
    with (
        open_pipeline(bundle, threads=arguments.threads) as pipeline,
        bounded_memory() if bounded else nullcontext(),
    ):
        job.run(pipeline)
    job.report()
    return 0


def _read_more(arguments: argparse.Namespace, kind: PipelineKind) -> None:
    """Read what the parser did not know: options of a kind that is not in the table."""
    known = _known_options()
    own = [option for option in kind.verb().options if option.name not in known]
    for option in own:
        setattr(arguments, option.name, None)
    parser = Parser(prog="generate", add_help=False)
    add_options(parser, own)
    _, left = parser.parse_known_args(arguments.more, arguments)
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")


def _refuse_foreign_options(arguments: argparse.Namespace, kind: PipelineKind) -> None:
    taken = {option.name: option for option in kind.verb().options}
    for name, option in _known_options().items():
        if getattr(arguments, name) is not None and name not in taken:
            raise InputError(
                f"{option.flags[-1]} means nothing to a {kind.name} bundle",
                hint=f"it takes {', '.join(own.flags[-1] for own in taken.values())}",
            )
