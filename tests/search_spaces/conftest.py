"""Hypothesis without a deadline: on a machine that others share, the time of one example says nothing."""

from hypothesis import settings

settings.register_profile("shared-machine", deadline=None, max_examples=60)
settings.load_profile("shared-machine")
