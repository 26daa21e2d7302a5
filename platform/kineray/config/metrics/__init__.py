"""Configurations of the metrics, one module each; new modules are found automatically."""
