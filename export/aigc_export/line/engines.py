"""Check what a target is asked for, and bound PyTorch to the shapes that its engine will take."""

from __future__ import annotations

from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.graph_session import bounded
from aigc_export.targets.profiles import narrowed
from aigc_models.program import Part, Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session

__all__ = ["check_build", "reference_program"]


def check_build(recipe: ExportRecipe) -> None:
    """Check before the work starts that the recipe can be built.

    Raises:
        EngineMissingError: the library is not installed; the hint is the install line.
        ConfigError: settings that the target, or a device, cannot follow.
    """
    for precision in dict.fromkeys((recipe.precision, *recipe.parts.values())):
        recipe.target.check(recipe.build, precision, recipe.opset)


def reference_program(program: Program, recipe: ExportRecipe) -> OpenProgram:
    """Make PyTorch sessions that take the shapes that the engines will take, and no others.

    Raises:
        ConfigError: profiles that the model cannot follow.
    """
    sessions = {name: _reference_session(program, part, recipe) for name, part in program.parts.items()}
    return OpenProgram(sessions, program.states, program.assets)


def _reference_session(program: Program, part: Part, recipe: ExportRecipe) -> Session:
    reference = TorchSession(part)
    profiles = recipe.target.bounds(program, part, recipe.build)
    if profiles is None:
        return reference
    interface = narrowed(part.interface, profiles)
    return ArraySession(bounded(reference.call, interface, profiles), interface)
