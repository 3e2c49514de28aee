"""Whole-slide and medical imaging analysis: batch heatmaps, clinical reports and official evaluations.

Importing the package is free: nothing is probed, nothing is fetched, and no heavy library is loaded.
"""

__version__ = "0.1.0"
