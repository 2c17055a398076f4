"""The device's side: numpy, one engine and `aigc_runtime`; no PyTorch.

    python examples/device.py out/upscaler

Opens a bundle of kind `tensors`, proves it on this device, and runs it.
"""

import sys
import time

import numpy as np

from aigc_runtime import AigcError, Bundle, InputError, TensorsPipeline, open_pipeline, open_program, verify_bundle


def main(path: str) -> int:
    try:
        with Bundle.open(path) as bundle:  # every file is hashed
            print(f"{bundle.manifest.name}, {bundle.manifest.precision}, {bundle.signature_told}")
            with open_program(bundle) as engines:
                report = verify_bundle(bundle, engines)
            if not report.passed:
                print("\n".join(report.failures), file=sys.stderr)
                return 3
            with open_pipeline(bundle) as pipeline:
                if not isinstance(pipeline, TensorsPipeline):
                    raise InputError(f"{path!r} holds a {bundle.manifest.pipeline.kind} pipeline, not one of arrays")
                run(pipeline)
    except AigcError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    return 0


def run(pipeline: TensorsPipeline) -> None:
    """Feed random numbers of the smallest sizes above 8 and time it."""
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.random([size if isinstance(size, int) else 8 for size in spec.shape]).astype(spec.dtype)
        for name, spec in pipeline.inputs.items()
    }
    started = time.perf_counter()
    results = pipeline.generate(inputs)
    print(f"{(time.perf_counter() - started) * 1e3:.2f} ms")
    for name, array in results.items():
        print(f"{name}: {array.dtype} {array.shape}, mean {array.mean():.4f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
