"""Saliency: heat maps of the evidence for a class in an image."""

from hpo.explain.card import overlay
from hpo.explain.mask import Heat, cell_mask, mass_inside
from hpo.explain.methods import Method
from hpo.explain.saliency import Saliency, saliency

__all__ = ["Heat", "Method", "Saliency", "cell_mask", "mass_inside", "overlay", "saliency"]
