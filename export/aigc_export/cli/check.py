"""`aigc-export check`."""

from __future__ import annotations

from dataclasses import asdict

import click

from aigc_export.cli.options import CONTEXT, bundle_argument, emit_json, json_option, out_console
from aigc_runtime.io.printable import printable


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export check out/unet-rtx --device rtx-3060")
@bundle_argument
@click.option("--device", required=True, help="A name, a compute capability, or the JSON of `aigc-run doctor`.")
@json_option
def check(bundle_path: str, device: str, as_json: bool) -> int:
    """Say from its manifest whether BUNDLE runs on a device, and if not, what to rebuild. Exit code 5 if not."""
    from aigc_export.tools.devices import find_device
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.cli.doctor import finding_lines
    from aigc_runtime.preflight import check_device

    found = check_device(Bundle.open(bundle_path).manifest, find_device(device))
    code = 0 if found.runs else 5
    if as_json:
        emit_json("aigc-export-check/1", {"runs": found.runs, **asdict(found)})
        return code
    for line in finding_lines(found):
        out_console().print(printable(line), soft_wrap=True, markup=False)
    return code
