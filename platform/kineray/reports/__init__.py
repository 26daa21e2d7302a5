"""Figures and pages, made from the records of runs and from predictions."""
