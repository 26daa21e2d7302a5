"""Augmentations of clips: one module for each, found by their being here."""
