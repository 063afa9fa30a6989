"""Comparisons and ablations: configurations trained under one budget and measured on equal terms."""
