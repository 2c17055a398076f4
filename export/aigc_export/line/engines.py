"""Check what a target is asked for, and bound PyTorch to the shapes that its engine will take."""

from __future__ import annotations

from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.graph_session import bounded
from aigc_export.targets.profiles import narrowed
from aigc_models.program import Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.session import Session

__all__ = ["check_build", "reference_session"]


def check_build(recipe: ExportRecipe) -> None:
    """Check before the work starts that the recipe can be built.

    Raises:
        EngineMissingError: the library is not installed; the hint is the install line.
        ConfigError: settings that the target, or a device, cannot follow.
    """
    recipe.target.check(recipe.build, recipe.precision, recipe.opset)


def reference_session(program: Program, recipe: ExportRecipe) -> Session:
    """Make a PyTorch session that takes the shapes that the engine will take, and no others.

    Raises:
        ConfigError: profiles that the model cannot follow.
    """
    reference = TorchSession(program.part)
    profiles = recipe.target.bounds(program, recipe.build)
    if profiles is None:
        return reference
    interface = narrowed(program.part.interface, profiles)
    return ArraySession(bounded(reference.call, interface, profiles), interface)
