"""Time and memory of an export of Stable Diffusion 1.5 in its published size: random weights in 16 bits, made here.

    python benchmarks/stable_diffusion.py FOLDER --precision fp32 --precision int8 --steps 2

The folder is written once, as diffusers writes it; each export runs in a process of its own, and so does the device
that draws a picture. Peak is the largest resident set of a process (VmHWM). Weights are random, so that the picture
shows nothing; other options, such as limits, are handed on to every export.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

UNET: dict[str, Any] = {
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
SCHEDULER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def write_pipeline(folder: Path) -> None:
    """Write the pipeline in 16 bits; nothing where there is one."""
    if (folder / "model_index.json").exists():
        return
    import torch

    diffusers, transformers = (import_module(name) for name in ("diffusers", "transformers"))
    torch.manual_seed(0)
    write_tokenizer(folder / "tokenizer")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=diffusers.UNet2DConditionModel(**UNET),
        scheduler=diffusers.PNDMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    pipeline.save_pretrained(folder)


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of CLIP's form and size, whose merges are of no language."""
    folder.mkdir(parents=True, exist_ok=True)
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(b) for b in printing] + [chr(256 + i) for i in range(256 - len(printing))]
    bases = [*characters, *(f"{c}</w>" for c in characters)]
    letters = [chr(c) for c in range(97, 123)]
    pairs = [(a, b) for a in letters for b in letters]
    merges = [f"{a} {b}" for a, b in pairs]
    made = ["".join(pair) for pair in pairs]
    wanted = TEXT["vocab_size"] - 2 - len(bases)
    merges += [f"{one} {other}" for one in made for other in made][: wanted - len(made)]
    tokens = [*bases, *(merge.replace(" ", "") for merge in merges), BEGIN, END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    marks = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    named = {"model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**marks, **named}))
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))


def measured(command: Sequence[str], log: Path) -> tuple[int, float, float]:
    """Run a command; returns its exit code, its seconds, and the largest resident set in GB."""
    started = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pipeline, the bundles and the logs go")
    parser.add_argument("--precision", action="append", default=[], help="may be repeated")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--steps", type=int, default=2, help="of the picture that is drawn")
    given, options = parser.parse_known_args()
    folder: Path = given.folder
    source = folder / "stable-diffusion"
    # In another process: the largest resident set of a child begins with what its parent holds when it is made.
    writer = get_context("spawn").Process(target=write_pipeline, args=(source,))
    writer.start()
    writer.join()
    scripts = Path(sys.executable).parent
    print("| precision | MB | seconds | peak GB | picture, seconds | peak GB |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for precision in given.precision or ["fp32"]:
        name = re.sub(r"\W", "_", precision)
        out, log = folder / name, folder / f"{name}.log"
        command = [str(scripts / "aigc-export"), "export", str(source), "--precision", precision, "-o", str(out)]
        code, seconds, peak = measured([*command, *options], log)
        row = f"| {precision} | - | {seconds:.0f} | {peak:.2f} | exit code {code}, see {log} | - |"
        if code == 0:
            size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
            asked = ["--prompt", "a lighthouse at dusk", "--size", given.size, "--steps", str(given.steps)]
            drawn = [str(scripts / "aigc-run"), "generate", str(out), *asked, "-o", str(folder / f"{name}.png")]
            code, picture, own = measured(drawn, folder / f"{name}.picture.log")
            told = f"{picture:.0f}" if code == 0 else f"exit code {code}"
            row = f"| {precision} | {size:.0f} | {seconds:.0f} | {peak:.2f} | {told} | {own:.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
