"""Schedules of the learning rate: one module for each, found by their being here."""
