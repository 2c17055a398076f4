"""The bundle that a verb of `aigc-run` is given, and whom the user trusts to have made it."""

from __future__ import annotations

import argparse

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.trusted_keys import read_trusted_keys

__all__ = ["open_bundle"]


def open_bundle(arguments: argparse.Namespace) -> Bundle:
    """Open the bundle; without --trusted-key, the environment says whom to trust, if anyone."""
    named = arguments.trusted_key
    return Bundle.open(
        arguments.bundle,
        expect_manifest_sha256=arguments.expect_manifest_sha256,
        trusted_keys=None if named is None else read_trusted_keys(named),
    )
