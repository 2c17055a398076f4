"""`aigc-export bench --against`: what it prints."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_export.cli.options import emit_json, err_console, out_console, show_warnings
from aigc_export.peers.catalog import parse_contestants, parse_named
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from aigc_export.peers.contest import Contest
    from aigc_export.peers.race import Laps, Result
    from aigc_runtime.bundle.bundle import Bundle

__all__ = ["bench_against"]


def bench_against(
    bundle: Bundle,
    against: str,
    *,
    beside: tuple[str, ...],
    model: str | None,
    checkpoint: str | None,
    eval_data: str | None,
    peer_source: tuple[str, ...],
    peer_python: tuple[str, ...],
    keep_peers: Path | None,
    plot: Path | None,
    prompts: int,
    prompt_tokens: int,
    new_tokens: int,
    windows: int,
    rounds: int,
    threads: int,
    as_json: bool,
) -> None:
    """Hold the contest and show what came of it."""
    import tempfile

    from aigc_export.mixed_precision.plots import plot_format
    from aigc_export.peers.contest import ContestPlan, hold
    from aigc_export.peers.plot import contest_plot
    from aigc_runtime.io.publish import atomic_write_bytes
    from aigc_runtime.io.report import check_outputs

    contestants = parse_contestants(against)
    sources, pythons = parse_named("--peer-source", peer_source), parse_named("--peer-python", peer_python)
    check_outputs(plot)
    kind = None if plot is None else plot_format(plot.suffix)
    progress = err_console()
    with tempfile.TemporaryDirectory(prefix="aigc-peers-") as scratch:
        contest = hold(
            bundle,
            contestants,
            ContestPlan(
                prompts=prompts,
                prompt_tokens=prompt_tokens,
                new_tokens=new_tokens,
                rounds=rounds,
                windows=windows,
            ),
            threads=threads,
            folder=keep_peers or Path(scratch),
            beside=beside,
            checkpoint=checkpoint,
            model=model,
            eval_data=eval_data,
            sources=sources,
            pythons=pythons,
            tell=lambda text: progress.print(f"  {printable(text)} ...", style="dim", markup=False),
        )
    if plot is not None and kind is not None:
        atomic_write_bytes(plot, contest_plot(contest, kind=kind))
    if as_json:
        emit_json("aigc-export-bench-against/1", {"threads": threads, **_document(contest)})
        return
    show_warnings(*contest.notes)
    _show(contest, threads, rounds)


def _document(contest: Contest) -> dict[str, Any]:
    """The contest as plain values; what is not known is left out."""
    return {
        "data": contest.data,
        "prompts": contest.prompts,
        "prompt_tokens": contest.prompt_tokens,
        "new_tokens": contest.new_tokens,
        "notes": list(contest.notes),
        "results": [_fields(one) for one in contest.results],
    }


def _fields(one: Result) -> dict[str, Any]:
    found: dict[str, Any] = {"name": one.name, "version": one.version}
    if one.failed:
        found["failed"] = one.failed
    if one.size_bytes:
        found |= {"size_bytes": one.size_bytes, "cold_s": one.cold_s, "peak_bytes": one.peak_bytes}
    if one.laps is not None:
        laps = one.laps
        found |= {"prompt_ms": laps.prompt_ms, "token_ms": laps.token_ms(), "token_p90_ms": laps.token_ms(0.9)}
        found |= {"token_p99_ms": laps.token_ms(0.99), "rounds": len(laps.prompts), "tokens": list(one.tokens)}
    if one.judgment is not None:
        found["judgment"] = asdict(one.judgment)
    return found


def _show(contest: Contest, threads: int, rounds: int) -> None:
    from rich.table import Table

    console, first = out_console(), contest.results[0]
    some = "a prompt" if contest.prompts == 1 else f"{contest.prompts} prompts at once"
    console.print(
        f"{some} of {contest.prompt_tokens} tokens and {contest.new_tokens} behind, {threads} threads, "
        f"medians of {rounds} alternating rounds"
    )
    times = Table("", "version", "prompt ms", "token ms", "p90", "p99", "tokens/s", "speed", "cold s", box=None)
    worth = Table("", "MB", "peak MB", "perplexity", "increase", "divergence", "same token", box=None)
    for one in contest.results:
        if one.laps is not None:
            times.add_row(one.name, one.version, *_times(one.laps, first.laps, contest.prompts), f"{one.cold_s:.2f}")
            peak = "" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}"
            worth.add_row(one.name, f"{one.size_bytes / 1e6:.0f}", peak, *_worth(one))
    console.print(times)
    console.print(f"\non {contest.data}, beside PyTorch:", markup=False)
    console.print(worth)
    for one in contest.results:
        if one.failed:
            console.print(f"{one.name}: {printable(one.failed)}", markup=False)


def _times(laps: Laps, first: Laps | None, prompts: int) -> list[str]:
    token = laps.token_ms()
    ratio = "" if first is None else f"{first.token_ms() / token:.2f}x"
    tails = [f"{laps.token_ms(share):.1f}" for share in (0.9, 0.99)]
    return [f"{laps.prompt_ms:.0f}", f"{token:.2f}", *tails, f"{1e3 * prompts / token:.1f}", ratio]


def _worth(one: Result) -> list[str]:
    if one.judgment is None:
        return ["", "", "", ""]
    judged = one.judgment
    increase, error = (100 * value for value in judged.increase)
    return [
        f"{judged.perplexity:.3f}",
        f"{increase:+.2f} ± {error:.2f} %" if math.isfinite(increase) else "",
        f"{judged.divergence[0]:.2g}",
        f"{100 * judged.agreement[0]:.1f} %",
    ]
