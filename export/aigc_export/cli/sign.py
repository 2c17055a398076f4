"""`aigc-export sign`."""

from __future__ import annotations

from pathlib import Path

import click

from aigc_export.cli.options import CONTEXT, bundle_argument, emit_json, json_option, out_console, show_warnings
from aigc_export.cli.paths import PATH
from aigc_runtime.io.printable import printable


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export sign out/lm --key keys/private.pem")
@bundle_argument
@click.option("--key", required=True, type=PATH, help="Private key, PEM, of `keygen`.")
@json_option
def sign(bundle_path: str, key: Path, as_json: bool) -> None:
    """Verify BUNDLE's hashes, and sign it: add manifest.sig, or replace the one that is there.

    An encrypted key takes its passphrase from AIGC_KEY_PASSPHRASE.
    """
    from aigc_export.line.signing import key_warning, load_signer, sign_bundle, signature_warnings

    signer = load_signer(key)
    warnings = show_warnings(key_warning(key), *signature_warnings(bundle_path, signer))
    bundle = sign_bundle(bundle_path, signer)
    if as_json:
        signed = {"manifest_sha256": bundle.manifest_sha256, "signed_by": bundle.signed_by}
        emit_json("aigc-export-sign/1", {"bundle": bundle_path, **signed, "warnings": warnings})
        return
    out_console().print(printable(f"{bundle_path}: signed by {bundle.signed_by}"), soft_wrap=True, markup=False)
