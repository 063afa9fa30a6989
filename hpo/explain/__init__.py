"""Where in an image a model looks, as heat maps.

heat                     the heat maps of a loaded bundle, ensembles included
attribution              which method explains a network
grad_cam, rollout        the methods: for feature maps, for class tokens
feature_map, attention   what in a network they read; probe finds it by running the network once
stitching                finer maps from shifted images
colouring, card, sheet   pictures for people
mask                     the stained cell of an image, and how much heat lies on it
"""

from hpo.explain.attribution import Method
from hpo.explain.colouring import overlay
from hpo.explain.heat import Heat, Saliency, saliency
from hpo.explain.mask import cell_mask, mass_inside

__all__ = ["Heat", "Method", "Saliency", "cell_mask", "mass_inside", "overlay", "saliency"]
