"""Configurations of the tasks: one module for each, found by their being here."""
