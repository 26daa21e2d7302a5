"""Configurations of the architectures: one module for each, found by their being here."""
