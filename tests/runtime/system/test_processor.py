"""The instruction set of a processor: flags as their makers document them, and what an emulator shows instead."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import ConfigError
from aigc_runtime.system import processor
from aigc_runtime.system.processor import (
    BYTE_PRODUCTS,
    INSTRUCTION_SETS,
    check_instruction_set,
    find_instruction_set,
    instruction_set,
    processor_flags,
    processor_name,
    reconciled,
)

SKYLAKE_X = "avx avx2 fma avx512f avx512bw avx512dq avx512vl avx512cd"


@pytest.mark.parametrize(
    ("model", "machine", "flags", "name"),
    [
        ("Core i7 920 (Nehalem)", "x86_64", "sse2 ssse3 sse4_1 sse4_2", "sse"),
        ("Core i7 2600 (Sandy Bridge)", "x86_64", "sse4_2 avx", "sse"),
        ("Core i7 4770 (Haswell)", "x86_64", "avx avx2 fma", "avx2"),
        ("EPYC 7763 (Milan), on Windows", "AMD64", "avx avx2 fma", "avx2"),
        ("Xeon Phi 7210 (Knights Landing)", "x86_64", "avx avx2 fma avx512f avx512cd avx512er", "avx2"),
        ("Xeon Gold 6148 (Skylake-SP)", "x86_64", SKYLAKE_X, "avx512"),
        ("Xeon Gold 6248 (Cascade Lake)", "x86_64", f"{SKYLAKE_X} avx512_vnni", "avx512_vnni"),
        ("Core i5 12600 (Alder Lake)", "x86_64", "avx avx2 fma avx_vnni", "avx_vnni"),
        ("Xeon 8480 (Sapphire Rapids)", "x86_64", f"{SKYLAKE_X} avx512_vnni avx_vnni amx_tile amx_int8", "amx_int8"),
        ("Cortex-A72 (Raspberry Pi 4)", "aarch64", "fp asimd", "neon"),
        ("Cortex-A76 (Raspberry Pi 5)", "aarch64", "fp asimd asimddp", "neon_dotprod"),
        ("M1", "arm64", "asimddp", "neon_dotprod"),
        ("Neoverse V1", "aarch64", "asimd asimddp sve i8mm", "neon_i8mm"),
        ("another architecture", "riscv64", "rv64gcv", None),
    ],
)
def test_processors(model: str, machine: str, flags: str, name: str | None) -> None:
    assert find_instruction_set(machine, set(flags.split())) == name, model


def test_an_emulator_shows_the_hosts_list_and_is_not_believed() -> None:
    host = frozenset(["avx", "avx2", "fma", "avx_vnni", "amx_tile", "amx_int8", "avx512_vnni"])
    haswell = {"AVX2": True, "FMA3": True, "AVX512F": False, "AVX512VNNI": False}
    assert reconciled(host, haswell) == {"avx2", "fma"}
    assert find_instruction_set("x86_64", reconciled(host, haswell)) == "avx2"


def test_a_list_that_numpy_confirms_is_kept_with_what_numpy_does_not_ask_for() -> None:
    alder_lake = frozenset({"avx2", "fma", "avx_vnni"})
    assert reconciled(alder_lake, {"AVX2": True, "FMA3": True, "AVX512VNNI": False}) == alder_lake
    assert reconciled(frozenset(), {"AVX2": True, "FMA3": True}) == {"avx2", "fma"}  # a system without a list
    assert reconciled(alder_lake, {}) == alder_lake  # a numpy that does not tell


def test_a_numpy_without_its_table_leaves_the_systems_list(monkeypatch: pytest.MonkeyPatch) -> None:
    before = processor_flags()
    monkeypatch.setattr(processor, "_numpy_features", dict)
    assert processor_flags() >= before or find_instruction_set(platform.machine(), before) is not None


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="reads Linux's list on x86-64")
def test_numpy_and_the_system_agree_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all flags that both know; on an emulated processor they do not, and numpy is right."""
    listed = processor._listed_flags()
    assert {"sse2", "fxsr"} <= listed
    features = processor._numpy_features()
    assert {"AVX2", "FMA3", "AVX512VNNI"} <= features.keys()
    assert instruction_set() in INSTRUCTION_SETS
    monkeypatch.setattr(processor, "Path", lambda _: Path("/nonexistent"))
    assert processor._listed_flags() == frozenset()
    assert set(processor_flags()) <= set(processor._NUMPY_NAMES.values())


def test_the_device_names_it() -> None:
    assert probe_device().instruction_set == instruction_set()


@pytest.mark.parametrize("name", ["", "AVX2", "avx2\n", "\x1b[2J", "x" * 33])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="instruction set"):
        check_instruction_set(name)


def test_every_name_is_one() -> None:
    for name in INSTRUCTION_SETS:
        check_instruction_set(name)


def test_instructions_for_products_of_bytes_are_those_of_the_makers() -> None:
    assert INSTRUCTION_SETS.keys() > BYTE_PRODUCTS
    wanted = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
    assert {name for name, (_, flags) in INSTRUCTION_SETS.items() if flags & wanted} == BYTE_PRODUCTS


def test_a_processor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor_name()
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "Path", lambda _: file)
    assert processor_name() in (platform.processor(), platform.machine())
    file.write_text("processor\t: 0\nmodel name\t: A Processor 3000\nflags\t: fpu\n")
    assert processor_name() == "A Processor 3000"
