"""`aigc-export doctor`."""

from __future__ import annotations

import click

from aigc_export.cli.options import CONTEXT, emit_json, json_option, out_console
from aigc_runtime.io.printable import printable


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export doctor --json")
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can build and run: libraries, memory, GPUs, and per target what is missing."""
    from aigc_export.targets.table import known_targets
    from aigc_runtime.backends.table import engine_packages
    from aigc_runtime.cli.doctor import device_lines
    from aigc_runtime.device.probe import probe_device
    from aigc_runtime.io.jsonable import to_json
    from aigc_runtime.system.host_memory import available_memory

    device, memory = probe_device(engine_packages()), available_memory()
    targets = {target.name: target.doctor(device) for target in known_targets()}
    if as_json:
        emit_json(
            "aigc-export-doctor/1",
            {"device": to_json(device), "available_memory_bytes": memory, "targets": to_json(targets)},
        )
        return
    console = out_console()
    for line in device_lines(device):
        console.print(printable(line), soft_wrap=True, markup=False)
    if memory is not None:
        console.print(f"memory    {memory / 1e9:.1f} GB free")
    for name, found in targets.items():
        console.print(
            f"{'builds' if found.builds else 'CANNOT'}    {name}: {found.summary}", soft_wrap=True, markup=False
        )
