"""Configurations of the pieces of a training recipe: one module for each, found by their being here."""
