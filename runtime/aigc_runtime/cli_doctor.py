"""`aigc-run doctor`: what this device has, and whether a bundle runs on it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from aigc_runtime.bundle import Bundle
from aigc_runtime.cli import emit_json
from aigc_runtime.device import Device, probe_device
from aigc_runtime.preflight import Preflight, check_device
from aigc_runtime.settings import to_json

__all__ = ["device_lines", "doctor", "finding_lines"]

_UNPINNED = (
    "note  the bundle is whole, but not signed: who made it, or edited its manifest, is not known\n"
    "      --expect-manifest-sha256 DIGEST takes that very bundle alone; `aigc-run info` prints the digest"
)


def doctor(arguments: argparse.Namespace) -> int:
    """Print what the device has; with a bundle, exit code 5 if it does not run here."""
    device = probe_device()
    judged: Preflight | None = None
    if arguments.bundle is not None:
        bundle = Bundle.open(arguments.bundle, expect_manifest_sha256=arguments.expect_manifest_sha256)
        judged = check_device(bundle.manifest, device)
    if arguments.json:
        told: dict[str, Any] = to_json(device)
        if judged is not None:
            pinned = arguments.expect_manifest_sha256 is not None
            told = {"device": told, "runs": judged.runs, "manifest_pinned": pinned, **asdict(judged)}
        emit_json(told)
    else:
        lines = [*device_lines(device), *([] if judged is None else finding_lines(judged))]
        if judged is not None and arguments.expect_manifest_sha256 is None:
            lines.append(_UNPINNED)
        for line in lines:
            sys.stdout.write(line + "\n")
    return 0 if judged is None or judged.runs else 5


def device_lines(device: Device) -> list[str]:
    """A device in words, one fact a line."""
    lines = [f"platform  {device.platform}, Python {device.python}, aigc-runtime {device.runtime}"]
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
