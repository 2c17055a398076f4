"""The `aigc-export` command: a lazy click group, one verb per file.

A verb's module is imported only when the verb runs, so that `aigc-export -h` does not pay for torch.
Exit codes are documented in docs/cli.md and come from `aigc_runtime.errors`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata
from typing import Any

import click

from aigc_runtime.errors import AigcError, UnknownNameError

__all__ = ["VERBS", "cli", "main"]

VERBS = {
    "models": ("aigc_export.cli.models:models", "List the models and the quality of their checkpoints."),
    "train": ("aigc_export.cli.train:train", "Train a model and write a checkpoint."),
    "calibrate": ("aigc_export.cli.calibrate:calibrate", "Keep the ranges that samples show, for later exports."),
    "sensitivity": ("aigc_export.cli.sensitivity:sensitivity", "Say what low precision costs and saves at every site."),
    "export": ("aigc_export.cli.export:export", "Take a model from PyTorch to a verified bundle."),
    "keygen": ("aigc_export.cli.keygen:keygen", "Make a pair of keys for signing bundles."),
    "sign": ("aigc_export.cli.sign:sign", "Sign a bundle."),
    "verify": ("aigc_export.cli.verify:verify", "Compare a bundle with PyTorch again."),
    "generate": ("aigc_export.cli.generate:generate", "Generate text or images from a bundle."),
    "bench": ("aigc_export.cli.bench:bench", "Time a bundle against PyTorch."),
    "compare": ("aigc_export.cli.compare:compare", "Put two bundles of one model side by side."),
    "inspect": ("aigc_export.cli.inspect:inspect", "Show what is inside a bundle."),
    "doctor": ("aigc_export.cli.doctor:doctor", "Say what this machine can build and run."),
    "check": ("aigc_export.cli.check:check", "Say whether a bundle runs on a device."),
    "demo": ("aigc_export.cli.demo:demo", "Export, verify and run the shipped models."),
}
"""verb -> (where it is, one line of help)."""


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is used, and suggests the nearest verb."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{VERBS[cmd_name][0]} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with the valid verbs and the nearest one in the error."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise UnknownNameError("command", args[0], VERBS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table alone, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"aigc-export {metadata.version('aigc-export')}")
        ctx.exit()


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: aigc-export export lm --target ort-cpu --precision fp32 -o out/lm",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Take trained generators out of PyTorch and prove that they still do what PyTorch did."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code; never a traceback unless AIGC_DEBUG is set."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code.

    Every failure is one message on standard error: what happened, and what to do next.
    """
    debug = bool(os.environ.get("AIGC_DEBUG"))
    try:
        result: Any = cli.main(args=arguments, prog_name="aigc-export", standalone_mode=False)
    except AigcError as err:
        if debug:
            raise
        _complain(str(err))
        return err.exit_code
    except click.exceptions.Abort:
        _complain("interrupted; nothing was published")
        return 130
    except click.ClickException as err:
        err.show()
        return 2
    except MemoryError as err:
        if debug:
            raise
        _complain(f"not enough memory: {err}\nuse a machine with more memory, or ask for less at once")
        return 2
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not our failure; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as err:
        if debug:
            raise
        _complain(
            f"internal error: {type(err).__name__}: {err}\nset AIGC_DEBUG=1 for the traceback, and please report it"
        )
        return 1
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    first, _, rest = message.partition("\n")
    click.echo(f"{click.style('error:', fg='red', bold=True)} {first}", err=True)
    for line in rest.splitlines():
        click.echo(f"  {line}", err=True)
