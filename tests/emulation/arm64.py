"""A bare aarch64 machine in a folder: Debian's Python and the wheels of the runtime, unpacked and not installed.

    python tests/emulation/arm64.py FOLDER CPU     # makes it, and prints the command that runs Python on it

apt-get and pip fetch by package name, with lists, caches and state of their own inside the folder, so that nothing of
the host's system changes and no rights are needed. Run by qemu-user.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["CPUS", "WHEELS", "UnavailableError", "prepare"]

CPUS = {"cortex-a72": "neon", "cortex-a76": "neon_dotprod", "max": "neon_i8mm"}
"""Processors of qemu -> instruction sets that the runtime should find."""

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
WHEELS = ("numpy==2.4.6", "onnxruntime==1.27.0", "pytest", "iniconfig", "packaging", "pluggy", "pygments")
"""onnxruntime: the newest that qemu 7.2 runs; 1.28.0 and later end in a segmentation fault when they are imported."""

_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
_APT = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::State "{folder}/state";
Dir::State::Lists "{folder}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
"""
_WRAPPER = """\
#!/bin/sh
exec {qemu} -cpu {cpu} -L {root} -0 "$0" {python} "$@"
"""


class UnavailableError(Exception):
    """The machine cannot be made here; says why."""


def prepare(folder: Path, cpu: str, qemu: str) -> tuple[Path, Path]:
    """Make the machine, once for one set of versions.

    Args:
        folder: that everything goes to.
        cpu: key of `CPUS`.
        qemu: path of qemu-aarch64.

    Returns:
        Python as a command of its own, so that tests can start it again by `sys.executable`; the folder of packages.

    Raises:
        UnavailableError: no apt-get or dpkg, or a download failed.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not installed: Debian's packages for arm64 cannot be fetched")
    stamp = hashlib.sha256(repr((PACKAGES, WHEELS)).encode()).hexdigest()[:12]
    ready = folder / f"ready-{stamp}"
    root, site = folder / "root", folder / "site"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:  # tests that run side by side ask for it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _unpack_debian(folder, root)
            _unpack_wheels(site, _python_of(root))
            ready.touch()
    python = _python_of(root)
    wrapper = python.parent / f"python-{cpu}"  # beside Python, which finds its library from where it was started
    started = _WRAPPER.format(qemu=qemu, cpu=cpu, root=root, python=python)
    if not wrapper.exists() or wrapper.read_text() != started:
        wrapper.write_text(started)
        wrapper.chmod(0o755)
    return wrapper, site


def _python_of(root: Path) -> Path:
    found = sorted(root.glob("usr/bin/python3.*"))
    if not found:
        raise UnavailableError(f"the packages {', '.join(PACKAGES)} hold no Python")
    return found[0]


def _unpack_debian(folder: Path, root: Path) -> None:
    apt = folder / "apt"
    for name in ("state", "lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    config = apt / "apt.conf"
    config.write_text(_APT.format(folder=apt))
    environment = {**os.environ, "APT_CONFIG": str(config)}
    _run(["apt-get", "-qq", "update"], environment)
    _run(["apt-get", "-qq", "--yes", "--download-only", "install", *PACKAGES], environment)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)], environment)


def _unpack_wheels(site: Path, python: Path) -> None:
    version = python.name.removeprefix("python")
    chosen = [f"--platform={name}" for name in _PLATFORMS]
    chosen += ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
    chosen += [f"--abi={abi}" for abi in (f"cp{version.replace('.', '')}", "abi3", "none")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*install, "--target", str(site), *chosen, *WHEELS], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(f"{' '.join(command[:3])} failed: {told[-1] if told else done.returncode}")


if __name__ == "__main__":
    made, packages = prepare(Path(sys.argv[1]).resolve(), sys.argv[2], shutil.which("qemu-aarch64") or "qemu-aarch64")
    print(f"PYTHONPATH={packages}:runtime {made}")
