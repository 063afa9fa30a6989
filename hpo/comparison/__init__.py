"""Presets, bundles and trials side by side: trained under one budget, measured on the same images and machine.

contestant        what an argument names
representative    one configuration that stands for a search space
entrants          presets and options to the runs of a roster
candidate, cost   trials and bundles to what is measured, and what their training cost
bench, score,     measuring: accuracy with intervals on validation, its corrupted copy and test; images a second
speed
row, table,       what is shown and written
figure, outputs,
circumstances
"""
