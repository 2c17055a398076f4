"""Pickles of whole networks, which only their own code could load: refused, with the way to their tensors."""

from __future__ import annotations

from pathlib import Path

from aigc_runtime.errors import CheckpointError

__all__ = ["refuse_pickle"]

SUFFIXES = (".pkl", ".pickle")


def refuse_pickle(path: Path) -> None:
    """Refuse a pickle by its name; not a byte of it is read.

    Raises:
        CheckpointError: says how its tensors are saved where it is trusted.
    """
    if path.suffix.lower() not in SUFFIXES:
        return
    raise CheckpointError(
        f"{str(path)!r} is a pickle of objects, which runs code when it is loaded: it is not read",
        hint="where you trust it, save its tensors in the repository that wrote it, for StyleGAN2: "
        f"torch.save(pickle.load(open({path.name!r}, 'rb'))['G_ema'].state_dict(), '{path.stem}.pth'); "
        "a pickle of the TensorFlow version goes through its legacy.py first",
    )
