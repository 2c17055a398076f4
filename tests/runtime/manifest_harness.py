"""Manifests changed in every way that stays JSON, and arrays changed with their hashes; each verified in a process.

    manifest_harness FOLDER MUTANTS SEED

Prints one JSON document: how often each exit code came, and every mutant that ended otherwise than documented: with a
traceback, without an end, with a control character on the terminal. Only what forks without threads is imported here.
"""

# ruff: noqa: BLE001 - whatever goes wrong in a child is counted

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

# Loaded once, before the first fork.
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort.open import import_onnxruntime
from aigc_runtime.bundle.bundle import fill_bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.manifest_file import dump_manifest
from aigc_runtime.bundle.origin import Origin
from aigc_runtime.cli.main import run
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines import get_kind

from . import mixed, tensor_toys, toys

import_onnxruntime()
NAMES = ("toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan", "toy_tensors", "toy_mixed")
ARRAYS = {"toy_tensors": tensor_toys.INPUTS, "toy_mixed": mixed.feeds(np.ones((2, 3), np.float32), 0)}
"""What `generate` is given, of pipelines that take arrays."""
TIMEOUT_S = 30.0
MEMORY = 3 * 2**30
"""Above what a child has at its start: a mutant that takes more is told so by the system, as on a small device."""
VERBS = (["verify"], ["verify", "--json"], ["info"], ["doctor"], ["generate"], ["bench", "--runs", "1"])
CODES = {
    "verify": {0, 3, 4, 5},
    "info": {0, 4},
    "doctor": {0, 4, 5},
    "generate": {0, 2, 4, 5},
    "bench": {0, 2, 4, 5},
}
"""Exit codes of docs/cli.md; a request of the user's own may be one that a changed model does not take (2)."""
_RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

ORIGIN = Origin(
    shipped=False,
    checkpoint="checkpoints/mine",
    model_sha256="0" * 64,
    config_sha256="1" * 64,
    calibration_data="data",
    calibration=None,
    eval_data="text.txt",
    eval_sha256="2" * 64,
    options=("--seed", "3", "--fixed-size"),
)

STRANGE: list[Any] = [None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**31 - 1, 2**53, -(2**53), 10**18]
STRANGE += [0.5, -0.0, 1e-308, 1e308, -1e308, 1.5, "", " ", "a", "batch", "sequence", "past", "batch+past", "a+b", "+"]
STRANGE += ["past+sequence", "2*(sequence//2)", "-past", "past//0", "(" * 9, "growing", "buffer", "window", "recurrent"]
STRANGE += ["input_ids", "logits", "model.onnx", "manifest.json", "float64", "int8", "float16", "uint8", "bool"]
STRANGE += ["\x1b[2J", "a\nb", "\x00", "\u202e", "\ud800", "é" * 300, "x" * 100_000, "[/]", "[bold]", "{}", "%s"]
STRANGE += ["model", "loop", {"code_next": "code"}, {"role": "loop", "repeat": 2, "feedback": {}}, "tensors", "gan"]
STRANGE += ["fp64", "onnxruntime", "tensorrt", "ddpm", "euler", "null", "NaN", "-1", "epsilon", "sample"]
STRANGE += [[], {}, [1], [[]], [[1], [1, 2]], {"a": 1}, ["a"], [None], {"": ""}, [True], [[[]]], [[["a"]]]]
STRANGE += [[1, 1, 1], [200_000, 200_000], [1, 200_000, 200_000], [0] * 3, [2**31] * 3, list(range(100)), {"kind": "a"}]
STRANGE += [[[[0.5] * 4] * 2], [[[1e39]]], [[["1"]]], ["", ""], {"temperature": "hot"}, {"top_k": 1.5}, {"zz": 1}]


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from walk(inner, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def edit(value: Any, rng: random.Random) -> None:
    """One change: another value, a value from elsewhere, another number, nested, twice, under another name, gone."""
    places = [path for path in walk(value) if path[0] != "files" or rng.random() < 0.2]
    path = rng.choice(places)
    parent, key = at(value, path[:-1]), path[-1]
    old, kind = parent[key], rng.randrange(9)
    if kind <= 1:
        parent[key] = copy.deepcopy(rng.choice(STRANGE))
    elif kind == 2:
        parent[key] = copy.deepcopy(at(value, rng.choice(places)))
    elif kind == 3 and isinstance(old, (int, float)) and not isinstance(old, bool):
        parent[key] = old * rng.choice([2, -1, 0, 10, 1000, 10**9]) + rng.choice([0, 1, -1, 0.5])
    elif kind == 4:
        parent[key] = rng.choice([[old], {"a": old}, [old, old], str(old), [[[old]]]])
    elif kind == 5 and isinstance(parent, dict):
        parent[rng.choice(["zz", "\x1b[31m", "", "name", f"{key}2", "seed", "batch", "size", "steps", "sampling"])] = (
            copy.deepcopy(rng.choice([old, *STRANGE]))
        )
    elif kind == 6 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(old))
    elif kind == 7 and isinstance(old, list):
        rng.shuffle(old)
    elif kind == 8 and isinstance(parent, dict):
        parent[rng.choice([f"{key}x", "zz", *list(parent)])] = parent.pop(key)
    else:
        del parent[key]


REQUEST: dict[str, Any] = {
    "sampling": [{"temperature": 0.7, "top_k": 5}, {}, [], "greedy", {"top_p": 2}, {"temperature": None}],
    "encoder_hidden_states": [[[[0.1, 0.2]]], "text", []],
    "size": [[4, 4], [200_000, 200_000], "4x4", [4], [4, "4"], 4, [0, 0], [4.0, 4.0]],
    "steps": [1, 1000, 10**9, 0, 2.5, "4"],
    "batch": [2, 10**9, 0, "2"],
    "class_labels": [[0, 1], [9], [-1], "0", [[0]], [0.5], [None], list(range(3)) * 10_000],
    "prompts": [["a"] * 3, [], "a", [""], ["\x00"], ["é"], [1], {"a": 1}, ["a" * 5000], "a" * 31],
    "max_new_tokens": [1, 10**9, 0, 1.5, "6", True],
    "stop": [["a"], "a", [""], [1]],
    "guidance_scale": [2.0, -1, 1e9, "2"],
    "truncation": [0.5, 0, -1, 1e9, "1"],
    "sampler": ["ddpm", "zz", 1, ["ddim"]],
    "eta": [0.5, 2, "0"],
    "seed": [1, -1, 2**53, 1.0, "0"],
}


def mutate_array(folder: Path, value: Any, rng: random.Random) -> str:
    """Another array of the reference, whose size and hash the manifest has; returns the file's name."""
    info = rng.choice([entry for entry in value["files"] if entry["path"].endswith(".npy")])
    kinds = ["float32", "int64", "float16", "int8", "bool", "uint8", "int32"]
    shapes: list[tuple[int, ...]] = [(), (1,), (0,), (2, 2), (1, 1, 4, 4), (0, 3), (3, 1, 1, 1, 1), (1, 4), (2, 3, 256)]
    data = write_npy(np.zeros(rng.choice(shapes), rng.choice(kinds)))
    if rng.random() < 0.4:
        header = rng.choice(
            [
                "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999999999)}",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (40000000000,)}",
                "{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}",
                "{'descr': 'O', 'fortran_order': False, 'shape': (1,)}",
                "[1, 2]",
                "{'descr': ['<f4'], 'fortran_order': 0, 'shape': 1}",
                "(" * 500,
                "\x1b[2J",
            ]
        ).encode()
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)
    if rng.random() < 0.1:
        data = rng.randbytes(rng.randrange(200))
    (folder / info["path"]).write_bytes(data)
    info["size"], info["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    return str(info["path"])


def child(arguments: list[str], pipe: int) -> None:
    """Run the command line and send what it printed and its exit code, or a traceback."""
    out, err, code = io.StringIO(), io.StringIO(), -1
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(arguments)
    except BaseException:
        err.write(traceback.format_exc())
    told = json.dumps([code, out.getvalue(), err.getvalue()]).encode()
    with os.fdopen(pipe, "wb") as file:
        file.write(told)
    os._exit(0)


def end(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line in a child; code -2 for one that hangs."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ours)
        child(arguments, theirs)
    os.close(theirs)
    deadline, parts = time.monotonic() + TIMEOUT_S, []
    with os.fdopen(ours, "rb", buffering=0) as file:
        while True:
            ready, _, _ = select.select([file], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return -2, "", ""
            part = file.read(1 << 16)
            if not part:
                break
            parts.append(part)
    _, status = os.waitpid(pid, 0)
    if status or not parts:
        return -3, "", f"the process ended with status {status}"
    code, out, err = json.loads(b"".join(parts))
    return code, out, err


def problem(verb: str, code: int, out: str, err: str) -> str:
    """What is wrong with how a mutant ended; empty if nothing."""
    if code == -2:
        return "no end"
    if code not in CODES[verb]:
        return f"exit code {code}"
    if "Traceback" in err or "internal" in err or "please report" in err:
        return "internal"
    # What a model generates is its own business.
    if raw := _RAW.search(err if verb == "generate" else out + err):
        return f"prints {raw.group()!a}"
    if code and not err.startswith("error: ") and not out:
        return "an exit code without a word"
    return ""


def options(name: str, folder: Path) -> list[str]:
    """What `generate` is asked for."""
    if name.startswith("toy_lm"):
        return ["--prompt", "ab"]
    if name not in ARRAYS:
        return ["-o", str(folder / "out.png")]
    for key, array in ARRAYS[name].items():
        np.save(folder / f"{key}.npy", array)
    inputs = [f"{key}={folder / key}.npy" for key in ARRAYS[name]]
    return [word for text in inputs for word in ("--input", text)] + ["-o", str(folder / "out.npz")]


def _made(name: str) -> tuple[Manifest, dict[str, bytes | Path]]:
    if name == "toy_mixed":
        return mixed.manifest()
    return tensor_toys.manifest() if name == "toy_tensors" else toys.toy_manifest(name)


def main(folder: Path, mutants: int, seed: int) -> dict[str, object]:
    rng = random.Random(seed)
    sound, homes = {}, {}
    for name in NAMES:
        homes[name] = folder / name
        homes[name].mkdir()
        manifest, files = _made(name)
        limit = get_kind(manifest.pipeline.kind).metric.limit
        quality = tuple(replace(result, data="the user's own") for result in manifest.quality)
        tolerances = replace(manifest.tolerances, set_by_user=tuple({limit, "min_sqnr_db"}))
        proof = EngineProof(proven_on=("avx2",))
        engines = {key: replace(engine, proof=proof) for key, engine in manifest.engines.items()}
        manifest = replace(manifest, origin=ORIGIN, quality=quality, tolerances=tolerances, engines=engines)
        sound[name] = json.loads(dump_manifest(fill_bundle(homes[name], manifest, files)))
    codes, wrong, memory = Counter[str](), [], []
    for number in range(mutants):
        name = NAMES[number % len(NAMES)]
        value, kept = copy.deepcopy(sound[name]), {}
        if rng.random() < 0.15:
            before = {path.name: path.read_bytes() for path in homes[name].iterdir()}
            changed = mutate_array(homes[name], value, rng)
            kept = {changed: before[changed]}
        elif rng.random() < 0.2:
            field = rng.choice(sorted(REQUEST))
            value["reference"]["generation"]["request"][field] = rng.choice(REQUEST[field])
            if rng.random() < 0.2:
                paths = [entry["path"] for entry in value["files"]]
                argument = rng.choice(["encoder_hidden_states", "null_encoder_hidden_states", "seed", "zz"])
                value["reference"]["generation"]["arrays"] = {argument: rng.choice(paths)}
        else:
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                # An edit may take away what the next one would have changed.
                with contextlib.suppress(KeyError, IndexError, TypeError, OverflowError):
                    edit(value, rng)
        text = json.dumps(value)
        (homes[name] / "manifest.json").write_text(text)
        verb = VERBS[0] if rng.random() < 0.7 else rng.choice(VERBS)
        arguments = [verb[0], str(homes[name]), *verb[1:]]
        if verb[0] not in {"info", "doctor"}:
            arguments += ["--threads", "1"]
        if verb[0] == "generate":
            arguments += options(name, folder)
        code, out, err = end(arguments)
        codes[f"{verb[0]} {code}"] += 1
        if "not enough memory" in err:
            memory.append(f"{number} {name} {verb[0]}: {err.strip()[-300:]!a}")
        if found := problem(verb[0], code, out, err):
            (folder / f"wrong-{number}.json").write_text(text)
            wrong.append(f"{number} {name} {verb[0]}: {found}: {err.strip()[-300:]!a}")
        for path, data in kept.items():
            (homes[name] / path).write_bytes(data)
    return {"mutants": mutants, "codes": dict(sorted(codes.items())), "out_of_memory": memory, "wrong": wrong}


if __name__ == "__main__":
    where, count, seed_text = sys.argv[1:4]
    print(json.dumps(main(Path(where), int(count), int(seed_text)), indent=1))
