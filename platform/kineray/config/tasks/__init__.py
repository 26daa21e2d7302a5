"""Configurations of the tasks, one module each; new modules are found automatically."""
