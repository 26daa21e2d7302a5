"""Configurations of the optimizers: one module for each, found by their being here."""
