"""What an export will take is near what docs/scale.md measured, and is held against this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aigc_export.line.estimate import MEASURED_ON, Machine, estimate, this_machine

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"
PLENTY = Machine(memory_bytes=10**12, disk_bytes=10**12, temporary_bytes=10**12)


def measured() -> list[tuple[int, str, float, float, float, bool]]:
    """Rows of the page: layers, precision, millions of parameters, GB, seconds, and whether it was quiet."""
    row = re.compile(
        r"\| (\d+) layers of \d+ \| (\w+)[^|]*\| ([\d,]+) M \| [\d.]+ \| ([\d.]+) \| [\d.]+ \| (\d+)([^|]*)\|"
    )
    rows = row.findall(PAGE.read_text())
    return [
        (int(n), p, float(m.replace(",", "")), float(gb), float(s), not busy.strip()) for n, p, m, gb, s, busy in rows
    ]


def test_estimates_are_near_the_measurements() -> None:
    rows = [row for row in measured() if row[1] != "int8"]  # with ranges, which `inspect` has no target for
    assert len(rows) >= 5
    for layers, precision, millions, peak, seconds, quiet in rows:
        said = estimate(
            precision,
            parameters=round(millions * 1e6),
            layers=layers,
            vocab_size=256,
            machine=PLENTY,
            calibration_tokens=0,
        )
        assert said.memory_bytes / 1e9 == pytest.approx(peak, rel=0.3), (layers, precision)
        if quiet:
            assert said.seconds == pytest.approx(seconds, rel=0.25), (layers, precision)
    assert MEASURED_ON.split(" of ")[-1] in PAGE.read_text()


def test_logits_of_a_large_vocabulary_are_counted() -> None:
    small, large = (
        estimate("int4", parameters=134_515_008, layers=30, vocab_size=size, machine=PLENTY) for size in (256, 49_152)
    )
    assert large.memory_bytes == small.memory_bytes + 4 * 5_000 * (49_152 - 256)


@pytest.mark.parametrize(
    ("precision", "tokens", "gigabytes", "seconds"),
    [
        ("fp32", 0, 2.64, 51),
        ("int4", None, 2.67, 254),
        ("int4", 0, 2.62, 66),
    ],
)
def test_estimates_are_near_what_a_trained_model_took(
    precision: str, tokens: int | None, gigabytes: float, seconds: float
) -> None:
    """SmolLM2-135M-Instruct on the same two cores; GPTQ, and without tokens rounded to nearest."""
    said = estimate(
        precision, parameters=134_515_008, layers=30, vocab_size=49_152, machine=PLENTY, calibration_tokens=tokens
    )
    assert said.memory_bytes / 1e9 == pytest.approx(gigabytes, rel=0.25)
    assert said.seconds == pytest.approx(seconds, rel=0.35)


def test_what_does_not_fit_is_said() -> None:
    machine = Machine(memory_bytes=10**9, disk_bytes=10**12, temporary_bytes=10**8)
    said = estimate("int8-weight", parameters=10**9, layers=20, vocab_size=256, machine=machine)
    assert (said.fits_memory, said.fits_disk) == (False, False)
    said = estimate("fp16", parameters=10**6, layers=2, vocab_size=256, machine=PLENTY)
    assert (said.fits_memory, said.fits_disk, said.seconds) == (True, True, None)
    unknown = Machine(memory_bytes=None, disk_bytes=10**12, temporary_bytes=None)
    said = estimate("fp32", parameters=10**6, layers=2, vocab_size=256, machine=unknown)
    assert (said.fits_memory, said.fits_disk) == (None, False)


def test_this_machine_is_asked() -> None:
    found = this_machine()
    assert found.disk_bytes > 0
    assert found.memory_bytes is None or found.memory_bytes > 0
