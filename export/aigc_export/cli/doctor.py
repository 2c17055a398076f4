"""`aigc-export doctor`."""

from __future__ import annotations

from typing import Any

import click

from aigc_export.cli.options import CONTEXT, emit_json, json_option, out_console
from aigc_runtime.io.printable import printable


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export doctor --json")
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can build and run: libraries, memory, GPUs, and per target what is missing."""
    from aigc_export.targets.tensorrt.library import INSTALL, MODULES, load_library
    from aigc_runtime.cli.doctor import device_lines
    from aigc_runtime.device.probe import probe_device
    from aigc_runtime.errors import EngineMissingError
    from aigc_runtime.io.jsonable import to_json
    from aigc_runtime.system.host_memory import available_memory

    device, memory = probe_device(), available_memory()
    targets: dict[str, Any] = {
        "ort-cpu": {"builds": True, "summary": "needs no more than is installed"},
        "ort-cuda": {"builds": True, "summary": _ort_cuda()},
    }
    for flavor in MODULES:
        try:
            library = load_library(flavor)
        except EngineMissingError as err:
            targets[flavor] = {"builds": False, "summary": f"{err.message}: {INSTALL[flavor]}"}
            continue
        if library.ahead_of_time:
            summary = f"{library.version}, for compute capability {', '.join(library.capabilities)}"
            targets[flavor] = {"builds": True, "summary": summary}
        else:
            builds = bool(device.gpus)
            summary = f"{library.version}, {'for the GPU here' if builds else 'needs a GPU to build, and none is here'}"
            targets[flavor] = {"builds": builds, "summary": summary}
    if as_json:
        emit_json(
            "aigc-export-doctor/1", {"device": to_json(device), "available_memory_bytes": memory, "targets": targets}
        )
        return
    console = out_console()
    for line in device_lines(device):
        console.print(printable(line), soft_wrap=True, markup=False)
    if memory is not None:
        console.print(f"memory    {memory / 1e9:.1f} GB free")
    for name, found in targets.items():
        console.print(
            f"{'builds' if found['builds'] else 'CANNOT'}    {name}: {found['summary']}", soft_wrap=True, markup=False
        )


def _ort_cuda() -> str:
    from aigc_runtime.backends.ort.open import import_onnxruntime, unavailable
    from aigc_runtime.bundle.providers import PROVIDERS

    provider = PROVIDERS["cuda"]
    why = unavailable(import_onnxruntime(provider), provider)
    return "and runs here" if why is None else f"but does not run here, so parity is that of its graph: {why.message}"
