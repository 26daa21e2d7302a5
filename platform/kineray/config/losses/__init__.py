"""Configurations of the losses: one module for each, found by their being here."""
