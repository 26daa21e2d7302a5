"""Configurations of the losses, one module each; new modules are found automatically."""
