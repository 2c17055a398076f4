"""What exports of a trained language model weigh, take, and cost in quality: the table of docs/real-models.md.

    python benchmarks/real_models.py SmolLM2-135M-Instruct
    python benchmarks/real_models.py SmolLM2-135M-Instruct model.gguf --precision fp32 int4 int4:rtn
    python benchmarks/real_models.py SmolLM2-135M-Instruct --target ort-cuda --precision fp32 fp16

Every export is the command as a user types it, with its own defaults, in a process of its own. Seconds are the clock's,
memory is the process's largest resident set (Linux). Then a question is asked and tokens are timed on the runtime. What
is refused is shown with the reason, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_export.targets import DEFAULT_TARGET

PRECISIONS = ("fp32", "fp16", "int8", "int8-weight", "int4", "int4:rtn")
"""Precisions, and a weight method behind a colon."""
QUESTION = "What is the capital of France?"
ANSWER_TOKENS = 24
COLUMNS = (
    ("model", "model"),
    ("precision", "precision"),
    ("MB", "megabytes"),
    ("seconds", "seconds"),
    ("peak GB", "peak"),
    ("perplexity", "perplexity"),
    ("increase", "increase"),
    ("divergence", "divergence"),
    ("same likeliest token", "agreement"),
    ("prompt, ms", "prefill"),
    ("tokens/s", "speed"),
    ("answer", "answer"),
)
"""Heading -> field of a row."""
PAIRED = {"increase": "ppl_increase", "divergence": "kl_divergence", "agreement": "top1_agreement"}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--target", default=DEFAULT_TARGET)
    parser.add_argument("--bundles", type=Path, help="keep the bundles in this folder")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="aigc-real-") as scratch:
        for model in asked.models:
            for precision in asked.precision:
                bundle = (asked.bundles or Path(scratch)) / f"{model.stem}-{precision.replace(':', '-')}"
                rows.append(measure(model, precision, bundle, target=asked.target))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(markdown(rows))


def export_command(model: Path, precision: str, bundle: Path, *, target: str = DEFAULT_TARGET) -> list[str]:
    """The words of an export of this model."""
    name, _, method = precision.partition(":")
    words = ["export", str(model), "--precision", name, "-o", str(bundle)]
    words += [] if target == DEFAULT_TARGET else ["--target", target]
    return [*words, "--weight-method", method] if method else words


def measure(model: Path, precision: str, bundle: Path, *, target: str = DEFAULT_TARGET) -> dict[str, str]:
    """Export, ask, and time: one row."""
    row = {"model": model.name, "precision": precision.replace(":", ", ")}
    started = time.perf_counter()
    exported, peak = run("aigc_export", *export_command(model, precision, bundle, target=target))
    row |= {"seconds": f"{time.perf_counter() - started:.0f}", "peak": f"{peak / 1e9:.2f}"}
    if exported.returncode != 0:
        return {**row, "answer": f"refused: {exported.stderr.strip().splitlines()[0]}"}
    row |= quality(json.loads((bundle / "manifest.json").read_text(encoding="utf-8")))
    row["megabytes"] = f"{sum(file.stat().st_size for file in bundle.iterdir()) / 1e6:.0f}"
    timed, _ = run("aigc_runtime", "bench", str(bundle), "--json", "--runs", "5")
    row |= speeds(json.loads(timed.stdout)["speeds"]) if timed.returncode == 0 else {}
    words = ["--chat", QUESTION, "--max-new-tokens", str(ANSWER_TOKENS), "--temperature", "0"]
    said, _ = run("aigc_runtime", "generate", str(bundle), *words)
    return {**row, "answer": " ".join((said.stdout or said.stderr).split())}


def quality(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What the export measured, as it stands in a bundle's manifest."""
    perplexity = next((one for one in manifest["quality"] if one["metric"] == "perplexity"), None)
    found = {} if perplexity is None else {"perplexity": f"{perplexity['reference']:.3f} → {perplexity['bundle']:.3f}"}
    paired = {one["name"]: one for one in manifest["measured"]["paired"]}
    for field, name in PAIRED.items():
        if name in paired:
            percent = "%" if field != "divergence" else ""
            value, error = (paired[name][key] * (100 if percent else 1) for key in ("value", "standard_error"))
            found[field] = (
                f"{value:.2g}{percent} ± {error:.1g}" if abs(value) < 10 else f"{value:.1f}{percent} ± {error:.1g}"
            )
    return found


def speeds(timed: Mapping[str, Any]) -> dict[str, str]:
    """The speeds that `aigc-run bench` tells."""
    found = {"prefill": timed.get("prefill_ms"), "speed": timed.get("decode_tokens_per_second")}
    return {name: f"{value:.1f}" for name, value in found.items() if value is not None}


def run(module: str, *words: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a command; with its largest resident set in bytes."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        done = subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read())
    return done, usage.ru_maxrss * 1024


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows, without the columns that none has."""
    columns = [(heading, field) for heading, field in COLUMNS if any(field in row for row in rows)]
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[row.get(field, "").replace("|", r"\|") for _, field in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
