"""`aigc-export generate`: the device's own command, under the toolchain's name."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def generate(arguments: tuple[str, ...]) -> int:
    """Generate text or images from a bundle; the same as `aigc-run generate`."""
    from aigc_runtime.cli.main import run

    return run(["generate", *arguments], prog="aigc-export")
