"""`aigc-export generate` and `chat`: the device's own commands, under the toolchain's name."""

from __future__ import annotations

import click

_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@click.command(context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def generate(arguments: tuple[str, ...]) -> int:
    """Generate text or images from a bundle; the same as `aigc-run generate`."""
    from aigc_runtime.cli.main import run

    return run(["generate", *arguments], prog="aigc-export")


@click.command(context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def chat(arguments: tuple[str, ...]) -> int:
    """Talk with the language model of a bundle; the same as `aigc-run chat`."""
    from aigc_runtime.cli.main import run

    return run(["chat", *arguments], prog="aigc-export")
