"""The click group of `aigc-export`: a verb's module is imported only when the verb runs.

So `aigc-export -h` does not pay for torch.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

import click

from aigc_export.cli import VERBS
from aigc_export.cli.log_options import ARGUMENTS, with_log
from aigc_export.targets import DEFAULT_TARGET
from aigc_runtime.errors import UnknownNameError

__all__ = ["cli"]


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is used, and suggests the nearest verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Like click's; what was typed is kept for the log."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

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
        return with_log(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with the valid verbs and the nearest one in the error."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise UnknownNameError("command", args[0], VERBS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Like click's, without the empty line that it prints where it is interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as err:
            raise click.exceptions.Abort from err

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
    epilog=f"Example: aigc-export export lm --target {DEFAULT_TARGET} --precision fp32 -o out/lm",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Take trained generators out of PyTorch and prove that they still do what PyTorch did."""
