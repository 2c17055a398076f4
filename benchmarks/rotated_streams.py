"""int8 of a language model in TensorRT's form, with rotated residual streams and without, by what stays float.

    python benchmarks/rotated_streams.py SmolLM2-135M-Instruct
    python benchmarks/rotated_streams.py SmolLM2-135M-Instruct --eval-data topics.txt --quality-samples 80
    python benchmarks/rotated_streams.py SmolLM2-135M-Instruct --try rotate:0.3 --try no-rotate:0.3

Prints a line for each: the increase of perplexity and the divergence from PyTorch with standard errors, the share of
the work in 8 bits, and the seconds of the export. An engine is built for one device, and what is judged is its graph,
since it is run nowhere. The limits of parity are loose. A language model of 135 M parameters takes some ten minutes a
line on two processors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from aigc_export.cli.process import prepare_process

TRIED = ("no-rotate:0.1", "rotate:0.1", "no-rotate:0.3", "rotate:0.3")


def main() -> None:
    """Export once for each, to temporary files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder")
    parser.add_argument("--try", dest="tried", action="append", help="[no-]rotate:SHARE; default: four")
    parser.add_argument("--samples", type=int, help="windows to calibrate on")
    parser.add_argument("--eval-data")
    parser.add_argument("--quality-samples", type=int)
    parser.add_argument("--compute-capability", default="8.9")
    given = parser.parse_args()
    prepare_process()
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.targets.tensorrt.settings import BuildSettings

    for tried in given.tried or TRIED:
        rotate, _, share = tried.partition(":")
        recipe = export_recipe(
            given.model,
            target="tensorrt-rtx",
            precision="int8",
            build=BuildSettings(compute_capabilities=(given.compute_capability,)),
            rotate=rotate == "rotate",
            float_share=float(share),
            calibration_samples=given.samples,
            eval_data=given.eval_data,
            quality_samples=given.quality_samples,
            tolerance={"max_quality_drop": 10.0},
        )
        with TemporaryDirectory(prefix="aigc-rotated-") as folder:
            result = export_model(recipe, Path(folder) / "bundle")
        found = {check.metric.name: check.metric for check in result.report.paired}
        told = (
            f"{name} {found[name].value:.4f} ± {found[name].standard_error:.4f}"
            for name in ("ppl_increase", "kl_divergence")
        )
        low = result.coverage.planned if result.coverage is not None else 0.0
        print(f"{tried}:", *told, f"{low:.1%} of the work in 8 bits, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
