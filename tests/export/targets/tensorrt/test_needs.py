"""Memory and disk before a build: of the machine, and of the control group that a process is limited to."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_export.targets.tensorrt import needs
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.needs import BuildNeeds, check_needs, estimate_needs
from aigc_runtime.errors import InputError, OutputError
from aigc_runtime.system.host_memory import available_memory

from .conftest import BATCH, build
from .fake_trt import FakeTensorRT

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 GiB to be had."""
    write(tmp_path / "proc/meminfo", "MemTotal:  16777216 kB\nMemAvailable:  8388608 kB\nHugePages_Total:  0\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, limit: str, use: int, droppable: int = 0) -> None:
    """Of version 2."""
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{use}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {droppable}\nactive_file 7\n")


def test_a_machine_without_control_groups(root: Path, tmp_path: Path) -> None:
    assert available_memory(root) == 8192 * MIB
    assert available_memory(tmp_path / "nothing") is None


def test_the_limit_of_a_container(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    group(root / "sys/fs/cgroup", str(1024 * MIB), 600 * MIB)
    assert available_memory(root) == 424 * MIB
    group(root / "sys/fs/cgroup", str(1024 * MIB), 600 * MIB, droppable=500 * MIB)
    assert available_memory(root) == 924 * MIB
    group(root / "sys/fs/cgroup", str(1024 * MIB), 1025 * MIB)
    assert available_memory(root) == 0
    group(root / "sys/fs/cgroup", "max", 600 * MIB)
    assert available_memory(root) == 8192 * MIB


def test_the_tightest_group_on_the_way_up_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/jobs/17\n")
    group(root / "sys/fs/cgroup/jobs/17", "max", 0)
    group(root / "sys/fs/cgroup/jobs", str(300 * MIB), 100 * MIB)
    assert available_memory(root) == 200 * MIB
    group(root / "sys/fs/cgroup/jobs/17", str(100 * MIB), 0)
    assert available_memory(root) == 100 * MIB


def test_control_groups_of_version_1(root: Path) -> None:
    write(root / "proc/self/cgroup", "5:cpu,memory:/docker/ab\n4:devices:/\n0::/\n")
    top = root / "sys/fs/cgroup/memory"  # a container sees its own group as the top
    write(top / "memory.limit_in_bytes", f"{512 * MIB}\n")
    write(top / "memory.usage_in_bytes", f"{400 * MIB}\n")
    write(top / "memory.stat", f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n")
    assert available_memory(root) == 212 * MIB
    write(top / "memory.limit_in_bytes", "9223372036854771712\n")
    assert available_memory(root) == 8192 * MIB


def test_this_machine_says_something_likely() -> None:
    found = available_memory()
    assert found is None or 10 * MIB < found < 1 << 50


# Estimates


def test_memory_that_does_not_suffice(tmp_path: Path) -> None:
    wanted = BuildNeeds(memory_bytes=3_000_000_000, disk_bytes=1)
    with pytest.raises(InputError, match=r"about 3\.0 GB of memory, 2\.0 GB are free") as caught:
        check_needs(wanted, tmp_path, memory=2_000_000_000)
    assert "limit of the container" in caught.value.hint
    check_needs(wanted, tmp_path, memory=3_000_000_000)
    check_needs(wanted, tmp_path, memory=None)


def test_disk_that_does_not_suffice(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the engine needs about"):
        check_needs(BuildNeeds(memory_bytes=0, disk_bytes=1 << 60), tmp_path, memory=None)


def test_every_profile_adds_and_devices_do_not(rtx: Library, conv: Path) -> None:
    one = build(rtx, conv).size_bytes
    assert build(rtx, conv, settings={"compute_capabilities": ("8.6", "8.9", "12.0")}).size_bytes < 1.05 * one
    four = build(rtx, conv, profiles=[BATCH] * 4).size_bytes
    assert four > one
    size = conv.stat().st_size
    for built, profiles in ((one, 1), (four, 4)):
        assert built <= estimate_needs(weight_bytes=size, nodes=1, profiles=profiles).disk_bytes
    alone, both = (estimate_needs(weight_bytes=size, nodes=10, profiles=n) for n in (1, 2))
    assert both.disk_bytes - alone.disk_bytes >= 10 * 43_000
    assert both.memory_bytes > alone.memory_bytes


def test_a_build_counts_its_profiles(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "PROFILE_BYTES", 1 << 60)
    build(FakeTensorRT().library, conv)
    with pytest.raises(InputError, match="building needs about"):
        build(FakeTensorRT().library, conv, profiles=[BATCH, BATCH])
