"""How often the first token of a window should count where GPTQ rounds weights: an export for every weight.

    python benchmarks/first_tokens.py SmolLM2-135M-Instruct --weights 1 32 256
    python benchmarks/first_tokens.py SmolLM2-135M-Instruct --weights 1 32 256 --eval-data topics.txt

Prints a line for each: the increase of perplexity and the divergence from PyTorch, with standard errors. The limits of
parity are loose. A language model of 135 M parameters takes five minutes a line on two processors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from aigc_export.cli.process import prepare_process


def main() -> None:
    """Export once for each weight, to temporary files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder")
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 8.0, 32.0, 128.0])
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
    for weight in given.weights:
        text.FIRST_TOKEN_WEIGHT = weight
        with TemporaryDirectory(prefix="aigc-first-tokens-") as folder:
            report = export_model(recipe, Path(folder) / "bundle").report
        found = {check.metric.name: check.metric for check in report.paired}
        told = (
            f"{name} {found[name].value:.4f} ± {found[name].standard_error:.4f}"
            for name in ("ppl_increase", "kl_divergence")
        )
        print(f"weight {weight:g}:", *told, flush=True)


if __name__ == "__main__":
    main()
