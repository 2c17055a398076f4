"""What does not fit into memory is told before it is tried, or refused to the engine: the machine is never filled."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aigc_runtime.errors import InputError
from aigc_runtime.pipelines import limits
from aigc_runtime.pipelines.limits import check_run_memory
from aigc_runtime.system import host_memory, memory_bound
from aigc_runtime.system.memory_bound import bounded_memory

MIB = 2**20


def test_a_sample_that_no_network_could_work_on_is_refused_before_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 32 * 4 * 3 * 100 * 100)
    check_run_memory((3, 100, 100))
    with pytest.raises(InputError, match=r"sample of shape \[3, 100, 101\] needs 0.0 GiB of memory at least, 0.0 GiB"):
        check_run_memory((3, 100, 101))
    monkeypatch.setattr(limits, "available_memory", lambda: None)
    check_run_memory((3, 2**14, 2**14))


def test_an_allocation_beyond_the_bound_fails_and_the_bound_ends() -> None:
    code = (
        "import mmap, resource\n"
        "from aigc_runtime.system import memory_bound\n"
        f"memory_bound.available_memory = lambda: 64 * {MIB}\n"
        "before = resource.getrlimit(resource.RLIMIT_DATA)\n"
        "def take(size):\n"
        "    try: mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()\n"
        "    except (OSError, MemoryError): return False\n"
        "    return True\n"
        "with memory_bound.bounded_memory():\n"
        f"    inside = take(32 * {MIB}), take(128 * {MIB})\n"
        f"print(inside, take(128 * {MIB}), resource.getrlimit(resource.RLIMIT_DATA) == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(True, False) True True\n"


def test_the_stacks_of_the_engines_threads_are_outside_of_the_bound(toy_bundles: Path, tmp_path: Path) -> None:
    """64 threads have stacks of 8 MiB each: more than is free, and hardly used."""
    code = (
        "import sys\n"
        "from aigc_runtime.system import memory_bound\n"
        f"memory_bound.available_memory = lambda: 128 * {MIB}\n"
        "from aigc_runtime.cli.main import run\n"
        "sys.exit(run(['generate', sys.argv[1], '-o', sys.argv[2], '--threads', '64']))"
    )
    files = [str(toy_bundles / "toy_gan"), str(tmp_path / "x.png")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_system_that_does_not_say_has_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded_memory(status=tmp_path / "none"):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    monkeypatch.setattr(memory_bound, "available_memory", lambda: None)
    with bounded_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert host_memory.available_memory(tmp_path) is None


def test_memory_is_given_back_whatever_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    host_memory.give_back_memory()
    asked: list[int] = []
    glibc = SimpleNamespace(malloc_trim=lambda kept: asked.append(kept.value))
    for platform, library in (("linux", glibc), ("linux", SimpleNamespace()), ("darwin", glibc)):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(ctypes, "CDLL", lambda _, found=library: found)
        host_memory.give_back_memory()
    assert asked == [0]  # of glibc alone, all that is free
