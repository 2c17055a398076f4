"""`aigc-export keygen`."""

from __future__ import annotations

from pathlib import Path

import click

from aigc_export.cli.options import CONTEXT, emit_json, json_option, out_console, show_warnings
from aigc_export.cli.paths import WRITTEN_PATH
from aigc_runtime.io.printable import printable


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export keygen -o keys")
@click.option("-o", "--output", required=True, type=WRITTEN_PATH, help="Folder for the two files.")
@json_option
def keygen(output: Path, as_json: bool) -> None:
    """Make a pair of Ed25519 keys: private.pem signs and stays here, public.pem goes to the devices.

    With AIGC_KEY_PASSPHRASE in the environment, the private key is encrypted. No file is overwritten.
    """
    from aigc_export.line.signing import PRIVATE_KEY, PUBLIC_KEY, key_warning, make_keys

    public = make_keys(output)
    # A file system without permissions, such as FAT, cannot keep it from others.
    warnings = show_warnings(key_warning(output / PRIVATE_KEY))
    if as_json:
        files = {"private": str(output / PRIVATE_KEY), "public": str(output / PUBLIC_KEY)}
        emit_json("aigc-export-keygen/1", {"key_id": public.key_id, **files, "warnings": warnings})
        return
    console = out_console()
    console.print(f"key {public.key_id}", markup=False)
    for line in (
        f"{output / PRIVATE_KEY}  signs: keep it secret, and a copy of it safe",
        f"{output / PUBLIC_KEY}   for the devices: aigc-run --trusted-key",
    ):
        console.print(printable(line), soft_wrap=True, markup=False)
