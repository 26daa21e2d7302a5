"""Augmentations of clips, one module for each; all modules of this package are loaded."""
