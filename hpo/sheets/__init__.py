"""Contact sheets: pictures of what a choice does to images.

drawing        rows and columns of small images with labels, as a PNG
samples        the images that they show
augmentation   every family of augmentation at five strengths
corruptions    every alteration of `hpo.robustness` at its five severities
"""
