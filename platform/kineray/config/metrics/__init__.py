"""Configurations of the metrics: one module for each, found by their being here."""
