"""Configurations of the architectures, one module each; new modules are found automatically."""
