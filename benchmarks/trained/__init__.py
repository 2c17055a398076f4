"""Eight small generators that the quantization benchmark trains on real data, in minutes each."""

from __future__ import annotations

from trained.coloring import COLORING
from trained.gans import DCGAN, STYLEGAN2
from trained.language import GPT2, TEXTBOOK
from trained.pixel_unet import PIXEL_UNET
from trained.recipe import Recipe
from trained.vae import LATENT_UNET, VAE

__all__ = ["HELD_OUT", "RECIPES"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (VAE, PIXEL_UNET, LATENT_UNET, DCGAN, STYLEGAN2, GPT2, COLORING, TEXTBOOK)
}
"""name of the subject -> how it is trained."""
HELD_OUT = ("coloring", "textbook")
"""Two of them are held out, chosen before anything was measured: no default of quantization is ever changed by looking
at what it does to these. They say what a default that was tuned on the others is worth on networks that nobody looked
at; once one of them has moved a default, another subject has to take its place here."""
