"""`aigc-run doctor`: what this device has, and whether a bundle runs on it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from aigc_runtime.backends.table import engine_packages
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.bundle import open_bundle
from aigc_runtime.device.findings import Preflight
from aigc_runtime.device.probe import Device, probe_device
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.io.printable import printable
from aigc_runtime.io.report import emit_json
from aigc_runtime.preflight import check_device

__all__ = ["device_lines", "doctor", "finding_lines"]

_UNKNOWN_ORIGIN = (
    "note      the bundle is whole, but who made it, or edited its manifest, is not known",
    "          --trusted-key FILE takes only what this key signed, --expect-manifest-sha256 DIGEST that bundle alone",
    "          (`aigc-run info` prints the digest)",
)


def doctor(arguments: argparse.Namespace) -> int:
    """Print what the device has; with a bundle, exit code 5 if it does not run here."""
    device = probe_device(engine_packages())
    bundle, judged = None, None
    if arguments.bundle is not None:
        bundle = open_bundle(arguments)
        judged = check_device(bundle.manifest, device)
    pinned = arguments.expect_manifest_sha256 is not None
    if arguments.json:
        schema, told = "aigc-run-doctor/1", to_json(device)
        if bundle is not None and judged is not None:
            origin = {"manifest_pinned": pinned, "has_signature": bundle.has_signature, "signed_by": bundle.signed_by}
            schema = "aigc-run-doctor-bundle/1"
            told = {"device": told, "runs": judged.runs, **origin, **asdict(judged)}
        emit_json(schema, told)
    else:
        lines = device_lines(device)
        if bundle is not None and judged is not None:
            lines += [*finding_lines(judged), *_origin_lines(bundle, pinned)]
        for line in lines:
            sys.stdout.write(printable(line) + "\n")
    return 0 if judged is None or judged.runs else 5


def _origin_lines(bundle: Bundle, pinned: bool) -> list[str]:
    known = pinned or bundle.signed_by is not None
    return [f"origin    {bundle.signature_told}", *(() if known else _UNKNOWN_ORIGIN)]


def device_lines(device: Device) -> list[str]:
    """A device in words, one fact a line."""
    lines = [f"platform  {device.platform}, Python {device.python}, aigc-runtime {device.runtime}"]
    if device.instruction_set is not None:
        lines.append(f"processor {device.instruction_set}")
    driver = "none found" if device.driver_cuda is None else f"runs CUDA up to {device.driver_cuda}"
    lines.append(f"driver    {driver}")
    for gpu in device.gpus:
        memory = "" if gpu.memory_bytes is None else f", {gpu.memory_bytes / 1e9:.1f} GB"
        lines.append(f"GPU       {gpu.name}, compute capability {gpu.compute_capability}{memory}")
    for name, version in (device.packages or {}).items():
        lines.append(f"engine    {name} {version}")
    return lines


_MARKS = {True: "pass  ", False: "FAIL  ", None: "?     "}


def finding_lines(judged: Preflight) -> list[str]:
    """What was compared, one line each, what to do below it, and the verdict."""
    lines = []
    for finding in judged.findings:
        lines.append(f"{_MARKS[finding.passed]}{finding.subject}: {finding.found}")
        lines += [f"      {finding.fix}"] if finding.fix else []
    return [*lines, _verdict(judged)]


def _verdict(judged: Preflight) -> str:
    if not judged.runs:
        return "does NOT run here"
    open_points = sum(finding.passed is None for finding in judged.findings)
    left = f"; {open_points} of {len(judged.findings)} not judged (?)" if open_points else ""
    return f"runs here, as far as the manifest tells{left}"
