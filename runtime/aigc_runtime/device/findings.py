"""What a comparison of a bundle with a device found, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding", "Preflight", "no_gpu", "not_known"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was compared: what the device has, whether that will do, and if not, what to do.

    Attributes:
        subject: what it is about.
        passed: whether it will do; None where the device, or the manifest, does not say.
        found: in words; of what is not known, what is needed.
        fix: what to do.
    """

    subject: str
    passed: bool | None
    found: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """All findings; `gpu` is the one of the device's GPUs that was judged, None where the engine needs none.

    `ordinal` is its place in the driver's order.
    """

    gpu: str | None
    findings: tuple[Finding, ...]
    ordinal: int | None = None

    @property
    def runs(self) -> bool:
        """Whether nothing speaks against running; what is not known does not."""
        return all(finding.passed is not False for finding in self.findings)


def not_known(subject: str, needed: str) -> Finding:
    """A finding on what the device does not say."""
    return Finding(subject=subject, passed=None, found=f"{needed}; not known of this device")


def no_gpu() -> Finding:
    """A finding on a device without a GPU, for an engine that needs one."""
    return Finding(
        subject="GPU", passed=False, found="none that a driver knows", fix="install the driver, or export for a CPU"
    )
