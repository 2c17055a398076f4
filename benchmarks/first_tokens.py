"""How often the first token of a window counts where GPTQ rounds weights, as a share of its tokens: an export each.

    python benchmarks/first_tokens.py SmolLM2-135M-Instruct --shares 0.002 0.0625 0.25
    python benchmarks/first_tokens.py SmolLM2-135M-Instruct --shares 0.002 0.0625 0.25 --eval-data topics.txt

Prints a line for each: the increase of perplexity and the divergence from PyTorch, with standard errors. The limits of
parity are loose. A language model of 135 M parameters takes five minutes a line on two processors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from aigc_export.cli.process import prepare_process


def main() -> None:
    """Export once for each share, to temporary files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder")
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.002, 1 / 64, 1 / 16, 1 / 4])
    parser.add_argument("--samples", type=int, help="windows to calibrate on")
    parser.add_argument("--eval-data")
    given = parser.parse_args()
    prepare_process()
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.workloads.samples import text

    recipe = export_recipe(
        given.model,
        precision=given.precision,
        calibration_samples=given.samples,
        eval_data=given.eval_data,
        tolerance={"max_quality_drop": 10.0},
    )
    for share in given.shares:
        text.FIRST_TOKEN_SHARE = share
        with TemporaryDirectory(prefix="aigc-first-tokens-") as folder:
            report = export_model(recipe, Path(folder) / "bundle").report
        found = {check.metric.name: check.metric for check in report.paired}
        told = (
            f"{name} {found[name].value:.4f} ± {found[name].standard_error:.4f}"
            for name in ("ppl_increase", "kl_divergence")
        )
        print(f"share {share:g}:", *told, flush=True)


if __name__ == "__main__":
    main()
