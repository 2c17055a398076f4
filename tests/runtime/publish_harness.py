"""Many writers and readers of bundles at once, and writers that are killed; run as a module, in a process of its own.

    publish_harness writers FOLDER PUBLISHES SEED   8 writers over names that begin alike
    publish_harness kills FOLDER KILLS SEED         a writer killed at a random moment, again and again
    publish_harness readers FOLDER SWAPS SEED       readers of one bundle while it is replaced

Each prints one JSON document of counts. Only what forks without threads is imported here.
"""

# ruff: noqa: BLE001 - whatever goes wrong in a child is counted

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from aigc_runtime import open_pipeline
from aigc_runtime.bundle.bundle import Bundle, retry_replaced, write_bundle
from aigc_runtime.bundle.manifest import Manifest

from . import toys

NAMES = ("lm", "lm-2026", "lm-2026-11", "lm-2026-11-26", "lm-2026-11-26-1", "lm-", "l", f"lm-{2**22 + 1}-x")
WRITERS = 8
MANIFEST, FILES = toys.toy_manifest("toy_gan")
EXTERNAL = (toys.DATA / "toy_gan_external.onnx").read_bytes()
SHIFT = 2.0**-12
"""Small enough that tanh of the largest is far from 1, large enough to be told from its neighbors."""


def publish(target: Path, made_by: str, rng: random.Random) -> None:
    """One bundle; who made it stands in its manifest and, by hash, in a file of its own."""
    manifest = replace(MANIFEST, provenance={"made_by": made_by})
    weights = rng.randbytes(rng.randrange(200_000))
    write_bundle(target, manifest, {**FILES, "weights.bin": weights, "made_by.bin": made_by.encode()})


def made_by(target: Path) -> str:
    """Who made a bundle; every file of it is hashed on the way."""
    bundle = Bundle.open(target)
    told = bundle.manifest.provenance["made_by"]
    if bundle.read("made_by.bin") != told.encode():
        raise RuntimeError(f"{target} is of two writers")
    return told


def fork(work: Callable[[], object], log: Path) -> int:
    """Run `work` in a child; what it raises is written to `log` and makes its exit status 1."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        log.write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def errors(logs: Path) -> list[str]:
    return [log.read_text().strip().splitlines()[-1] for log in sorted(logs.glob("*.txt"))]


def writers(folder: Path, publishes: int, seed: int) -> dict[str, object]:
    """Torn: a bundle that does not open. Lost: one that a writer replaced itself. Spurious: a publish that failed."""
    out, logs = folder / "out", folder / "logs"
    out.mkdir()
    logs.mkdir()

    def write(number: int) -> None:
        rng, last, failed = random.Random(f"{seed} {number}"), {}, []
        for i in range(publishes // WRITERS):
            name = rng.choice(NAMES)
            try:
                publish(out / name, f"{number}:{i}", rng)
            except Exception as err:
                failed.append(repr(err))
            else:
                last[name] = f"{number}:{i}"
        (logs / f"{number}.json").write_text(json.dumps({"last": last, "failed": failed}))

    for pid in [fork(partial(write, n), logs / f"{n}.txt") for n in range(WRITERS)]:
        os.waitpid(pid, 0)
    told = [json.loads((logs / f"{n}.json").read_text()) for n in range(WRITERS)]
    torn, lost = [], []
    for name in {name for one in told for name in one["last"]}:
        try:
            found = made_by(out / name)
        except Exception as err:
            torn.append(f"{name}: {err!r}")
        else:
            if told[int(found.partition(":")[0])]["last"].get(name) != found:
                lost.append(f"{name}: {found}")
    return {
        "publishes": publishes // WRITERS * WRITERS,
        "torn": torn,
        "lost": lost,
        "spurious": errors(logs) + [error for one in told for error in one["failed"]],
        "left": sorted(name for name in listed(out) if name not in NAMES),
    }


def kills(folder: Path, count: int, seed: int) -> dict[str, object]:
    """Corrupt: what is there after a kill does not open. Lost: nothing is there. Left: what the last publish kept."""
    out, logs, rng = folder / "out", folder / "logs", random.Random(seed)
    out.mkdir()
    logs.mkdir()
    for name in NAMES:
        publish(out / name, "first", rng)

    def write(number: int) -> None:
        own = random.Random(f"{seed} {number}")
        for i in range(1_000_000):
            publish(out / own.choice(NAMES[:3]), f"{number}:{i}", own)

    corrupt: list[str] = []
    lost: list[str] = []
    held = Counter[str]()
    for number in range(count):
        pid = fork(partial(write, number), logs / f"{number}.txt")
        time.sleep(rng.uniform(0.0, 0.08))
        os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] != signal.SIGKILL:
            corrupt.append(f"writer {number} ended before it was killed")
        held.update(name.split("-")[1] for name in listed(out) if name.startswith(".aigc-"))
        for name in NAMES:
            try:
                made_by(out / name)
            except Exception as err:
                (corrupt if (out / name).exists() else lost).append(f"{number} {name}: {err!r}")
        if number % 10 == 9:  # in between, what one kill left meets the next
            for name in NAMES[:3]:
                publish(out / name, "again", rng)
    for name in NAMES[:3]:
        publish(out / name, "last", rng)
    return {
        "kills": count,
        "corrupt": corrupt,
        "lost": lost,
        "spurious": errors(logs),
        "found_after_kills": dict(held),
        "left": sorted(name for name in listed(out) if name not in NAMES),
    }


def with_weights(number: int) -> tuple[Manifest, dict[str, bytes | Path]]:
    """A bundle whose weights lie in a file of their own, which ONNX Runtime opens by path; they add up to `number`."""
    weights = np.full(4096, number * SHIFT / 4096, np.float32)
    files = {**FILES, "model.onnx": EXTERNAL, "model.onnx.data": weights.tobytes(), "made_by.bin": str(number).encode()}
    return replace(MANIFEST, provenance={"made_by": str(number)}), files


def readers(folder: Path, swaps: int, _seed: int) -> dict[str, object]:
    """False alarms: an open, a read or a session of a bundle that was whole all the time, only replaced."""
    target, logs = folder / "out", folder / "logs"
    logs.mkdir()
    write_bundle(target, *with_weights(0))
    done = folder / "done"

    def run() -> str:
        with open_pipeline(target, threads=1) as pipeline:
            zero = np.zeros((1, 4), np.float32)
            image = pipeline.program.session("model").run({"latents": zero, "class_labels": np.zeros(1, np.int64)})[
                "image"
            ]
        return str(round(float(np.arctanh(image[0, 0, 0, 0])) / SHIFT))

    def read(number: int) -> None:
        opens, alarms, seen = 0, [], set()
        while not done.exists():
            try:
                # What an application does that opens a bundle itself and goes on reading from it.
                seen.add(run() if number else retry_replaced(lambda: made_by(target)))
                opens += 1
            except Exception as err:
                alarms.append(repr(err))
        (logs / f"{number}.json").write_text(
            json.dumps({"opens": opens, "alarms": alarms, "seen": len(seen), "values": sorted(seen)})
        )

    pids = [fork(partial(read, n), logs / f"{n}.txt") for n in range(2)]
    for i in range(swaps):
        write_bundle(target, *with_weights(i + 1))
    done.touch()
    for pid in pids:
        os.waitpid(pid, 0)
    told = [json.loads((logs / f"{n}.json").read_text()) for n in range(2)]
    return {
        "swaps": swaps,
        "opens": sum(one["opens"] for one in told),
        "bundles_seen": [one["seen"] for one in told],
        "unknown": sorted(set().union(*(one["values"] for one in told)) - {str(i) for i in range(swaps + 1)}),
        "false_alarms": [alarm for one in told for alarm in one["alarms"]] + errors(logs),
    }


if __name__ == "__main__":
    mode, where, number, seed_text = sys.argv[1:5]
    work = {"writers": writers, "kills": kills, "readers": readers}[mode]
    print(json.dumps(work(Path(where), int(number), int(seed_text)), indent=1))
