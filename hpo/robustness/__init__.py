"""How a classifier fares on images that went wrong: noise, blur, light, colour, rotation, compression, masks.

alterations   what can happen to an image, in five severities
corrupted     every image of a part under each of them, and what accuracy comes of it
stored        the file that holds them
"""

from hpo.robustness.alterations import ALTERATIONS, SEVERITIES, alter
from hpo.robustness.corrupted import Condition, CorruptedCopy, corrupted_copy

__all__ = ["ALTERATIONS", "SEVERITIES", "Condition", "CorruptedCopy", "alter", "corrupted_copy"]
