"""Augmentation: pure functions of uint8 images, from a configuration and a seed."""
