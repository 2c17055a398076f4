"""A module of your own with free height and width becomes a bundle in 8 bits.

    python examples/upscaler_int8.py

Ranges are taken from your own arrays: an .npz with one array for each input, whose first dimension is the samples.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import aigc_export
import aigc_runtime


class Upscaler(nn.Module):
    """Twice the height and width: features, then every four channels become four pixels."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 12, 3, padding=1),
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        enlarged = nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")
        return {"larger": enlarged + nn.functional.pixel_shuffle(self.features(image), 2)}


def make_program() -> aigc_export.Program:
    """Make the program; the command line takes this function by `examples/upscaler_int8.py:make_program`."""
    torch.manual_seed(0)
    module = Upscaler().eval()  # your own weights: module.load_state_dict(...)
    example = {"image": torch.rand(1, 3, 32, 24)}
    return aigc_export.program(module, example, dims={"image": {2: "height", 3: "width"}}, name="upscaler")


def main(output: Path = Path("out/upscaler")) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    samples = output.parent / "samples.npz"
    np.savez(samples, image=np.random.default_rng(0).random((40, 3, 24, 24), dtype=np.float32))

    result = aigc_export.export(
        make_program(),
        output=output,
        precision="int8",
        calibration_data=str(samples),
        calibration_samples=40,
        quality_samples=8,
        stage=lambda name, what: print(f"{name:<20}{what}"),
    )
    print(f"{result.bundle.size_bytes:,} bytes; {result.coverage}")

    # Any height and width, without PyTorch from here on.
    with aigc_runtime.open_pipeline(output) as pipeline:
        for height, width in ((16, 16), (50, 21)):
            image = np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)
            larger = pipeline.generate({"image": image})["larger"]
            print(f"{image.shape} -> {larger.shape}")


if __name__ == "__main__":
    main()
