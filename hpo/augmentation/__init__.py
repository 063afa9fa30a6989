"""Augmentation: functions of uint8 images that depend on a configuration and a seed alone."""
