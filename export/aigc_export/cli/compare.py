"""`aigc-export compare`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.options import CONTEXT, emit_json, err_console, json_option, out_console, threads_option
from aigc_export.cli.paths import TEXT_PATH, WRITTEN_PATH
from aigc_export.tools.timing import MAX_ROUNDS
from aigc_runtime.io.printable import printable
from aigc_runtime.proof.bench import MAX_RUNS

if TYPE_CHECKING:
    from rich.table import Table

    from aigc_export.tools.comparison import Comparison
    from aigc_export.tools.regression import CostCheck, CostLimit, Kind


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export compare out/unet out/unet-int8 --image both.png")
@click.argument("bundles", metavar="[A] B", type=TEXT_PATH, nargs=-1)
@click.option("--baseline", type=TEXT_PATH, help="Bundle A, in place of the first argument.")
@click.option("--max-size-increase", metavar="LIMIT", help="Of B over A, such as 5%, 20kB or 1000 (bytes).")
@click.option("--max-latency-increase", metavar="LIMIT", help="Of B over A, such as 10%, 0.5ms or 0.5 (ms).")
@click.option("--max-size", metavar="LIMIT", help="Of B, such as 3.5MB or 1000 (bytes).")
@click.option("--max-latency", metavar="LIMIT", help="Of a step of B, such as 2ms or 2 (ms).")
@click.option("--quality-samples", type=int, help="Text windows or images. Default: 200, or fewer; 0: none.")
@click.option("--eval-data", type=TEXT_PATH, help="Your text or jsonl to evaluate on. Default: that of A's export.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of what is generated.")
@click.option(
    "--rounds", type=click.IntRange(1, MAX_ROUNDS), default=5, show_default=True, help="Alternations A B A B."
)
@click.option(
    "--runs", type=click.IntRange(1, MAX_RUNS), default=30, show_default=True, help="Steps per round and side."
)
@click.option("--image", type=WRITTEN_PATH, help="Write A over B over their amplified difference, a PNG.")
@threads_option
@json_option
def compare(
    bundles: tuple[str, ...],
    baseline: str | None,
    max_size_increase: str | None,
    max_latency_increase: str | None,
    max_size: str | None,
    max_latency: str | None,
    quality_samples: int | None,
    eval_data: str | None,
    seed: int,
    rounds: int,
    runs: int,
    image: Path | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Put bundles A and B of one model side by side: tensors, a picture, quality, size and speed.

    A is the reference, such as fp32, or what was shipped before; B another export of it. Nothing is compared but what
    --max-... limits: exit code 3 if B costs more. A time fails only where it is beyond its limit by more than noise.
    """
    from aigc_export.tools.comparison import check_comparable, compare_bundles, picture_grid
    from aigc_export.tools.regression import MIN_ROUNDS
    from aigc_export.workloads import get_workload
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.errors import ConfigError
    from aigc_runtime.io.output_file import is_standard_output, is_stream
    from aigc_runtime.io.png import write_png
    from aigc_runtime.io.report import check_outputs

    first, second = _pair(bundles, baseline)
    limits = _limits(
        ("size", True, max_size_increase),
        ("latency", True, max_latency_increase),
        ("size", False, max_size),
        ("latency", False, max_latency),
    )
    if any(limit.kind == "latency" for limit in limits):
        rounds = max(rounds, MIN_ROUNDS)
    a, b = Bundle.open(first), Bundle.open(second)
    check_comparable(a.manifest, b.manifest)
    if image is not None:
        channels = get_workload(a.manifest.pipeline.kind).picture_channels(a.manifest.pipeline.settings)
        if channels is None:
            raise ConfigError("these bundles make no images", hint="leave --image out")
        if channels not in (1, 3):
            raise ConfigError(f"a PNG holds 1 or 3 channels, these samples have {channels}", hint="leave --image out")
    check_outputs(image)
    if image is not None and image.suffix.lower() != ".png" and not is_stream(image):
        raise ConfigError(f"{str(image)!r} is not named as a PNG", hint="pictures are written as .png")
    on_stdout = image is not None and is_standard_output(image)
    if on_stdout and as_json:
        raise ConfigError("--json and --image both write to standard output", hint="write the picture to a file")
    with err_console().status(f"compare {first} {second}"):
        found = compare_bundles(
            a,
            b,
            quality_samples=quality_samples,
            eval_data=eval_data,
            seed=seed,
            threads=threads,
            rounds=rounds,
            runs=runs,
        )
    checks = [_check(limit, found) for limit in limits]
    code = 0 if all(check.passed for check in checks) else 3
    amplification = None
    if image is not None:
        grid, amplification = picture_grid(found.picture)
        write_png(image, grid)
    if as_json:
        drawn = {"image": None if image is None else str(image), "amplification": amplification}
        emit_json(
            "aigc-export-compare/1",
            {**_document(found), **drawn, "checks": [asdict(c) for c in checks], "passed": code == 0},
        )
        return code
    console = err_console() if on_stdout else out_console()
    console.print(_table(found))
    models = [facts.model_sha256 or facts.checkpoint_sha256 for facts in (found.first, found.second)]
    if models[0] != models[1]:
        console.print("[bold yellow]warning[/] the two were made from different weights", soft_wrap=True)
    if image is not None:
        message = f"wrote {image}: A, B, and their difference times {amplification}"
        console.print(printable(message), soft_wrap=True, markup=False)
    for check in checks:
        console.print(str(check), soft_wrap=True, markup=False, style=None if check.passed else "red")
    return code


def _pair(bundles: tuple[str, ...], baseline: str | None) -> tuple[str, str]:
    """Open bundles A and B."""
    given = bundles if baseline is None else (baseline, *bundles)
    if len(given) != 2:
        raise click.UsageError(f"two bundles are compared, A and B: {len(given)} given (--baseline gives A)")
    return given[0], given[1]


def _limits(*given: tuple[Kind, bool, str | None]) -> list[CostLimit]:
    from aigc_export.tools.regression import parse_limit

    return [parse_limit(text, kind, increase=increase) for kind, increase, text in given if text is not None]


def _check(limit: CostLimit, found: Comparison) -> CostCheck:
    from aigc_export.tools.regression import check_latency, check_size

    if limit.kind == "latency":
        return check_latency(limit, found.timing)
    return check_size(limit, baseline_bytes=found.first.size_bytes, size_bytes=found.second.size_bytes)


def _document(found: Comparison) -> dict[str, Any]:
    picture, timing = found.picture, found.timing
    return {
        "name": found.name,
        "a": asdict(found.first),
        "b": asdict(found.second),
        "tensors": [asdict(t) for t in found.tensors],
        "picture": {"metric": picture.metric, "value": picture.value},
        "paired": [asdict(m) for m in found.scores.paired],
        "quality": [
            {
                "metric": q.metric,
                "a": q.reference,
                "b": q.bundle,
                "higher_is_better": q.higher_is_better,
                "data": q.data,
            }
            for q in found.scores.quality
        ],
        "speed": {
            "threads": found.threads,
            "a_ms": timing.reference_ms,
            "b_ms": timing.candidate_ms,
            "speedup": timing.speedup,
            "rounds_ms": [list(pair) for pair in timing.rounds],
        },
    }


def _table(found: Comparison) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from aigc_runtime.proof.paired import named

    a, b, timing = found.first, found.second, found.timing
    title = printable(f"{found.name}: A is {a.path}, B is {b.path}")
    table = Table(title=escape(title), title_justify="left")
    for heading in ("", f"A, {a.precision}", f"B, {b.precision}", "B beside A"):
        table.add_column(heading, overflow="fold")
    for t in found.tensors:
        errors = t.errors.problem or f"{t.errors.sqnr_db:.1f} dB, max error {t.errors.max_abs:.1e}"
        table.add_row(escape(f"tensor {t.output}, {t.case}"), "", "", escape(errors))
    picture = found.picture
    table.add_row("one generation", "", "", f"{picture.metric} {picture.value:.4g}")
    for m in found.scores.paired:
        error = f" ± {m.standard_error:.2g}" if m.standard_error else ""
        table.add_row(f"paired {escape(named(m.name, m.data))}", "", "", f"{m.value:.4g}{error} over {m.samples}")
    for q in found.scores.quality:
        name = escape(named(q.metric, q.data))
        table.add_row(f"quality {name}", f"{q.reference:.5g}", f"{q.bundle:.5g}", f"{q.bundle - q.reference:+.2g}")
    for what, x, y in (("bundle", a.size_bytes, b.size_bytes), ("engine", a.engine_bytes, b.engine_bytes)):
        table.add_row(f"size of the {what}", f"{x / 1e6:.2f} MB", f"{y / 1e6:.2f} MB", f"{y / x:.2f}x")
    table.add_row(
        f"one step, {found.threads} threads",
        f"{timing.reference_ms:.3f} ms",
        f"{timing.candidate_ms:.3f} ms",
        f"{timing.speedup:.2f}x as fast",
    )
    if a.plan or b.plan:
        table.add_row("operators by plan", _plan(a.plan), _plan(b.plan), "")
    return table


def _plan(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {precision}" for precision, n in counts.items()) or "all as captured"
