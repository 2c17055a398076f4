"""Whether a device runs a bundle, from the manifest alone: nothing is opened, nothing is tried.

An engine for another device is not always refused by its library with a reason that helps; some crash. What the
manifest says is compared here first. What a device does not tell, one that is known by name above all, is neither
passed nor failed.
"""

from __future__ import annotations

from dataclasses import replace

from aigc_runtime.bundle.engine_facts import engine_facts
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.device.findings import Preflight
from aigc_runtime.device.probe import Device

__all__ = ["check_device", "check_engine"]


def check_device(manifest: Manifest, device: Device) -> Preflight:
    """Compare a manifest with a device: each of its engines, as its back-end does.

    Args:
        manifest: of the bundle.
        device: probed, or described by name.

    Returns:
        The findings of all engines; the GPU is that of the first engine that needs one.
    """
    judged = [check_engine(manifest, name, device) for name in manifest.engines]
    named = next((found for found in judged if found.gpu is not None), judged[0])
    return replace(named, findings=tuple(dict.fromkeys(f for found in judged for f in found.findings)))


def check_engine(manifest: Manifest, name: str, device: Device) -> Preflight:
    """Compare one engine with a device."""
    return manifest.engines[name].backend.check(engine_facts(manifest, name), device)
