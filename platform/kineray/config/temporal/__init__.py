"""Configurations of the temporal subsystems, one module each; new modules are found automatically.

A temporal subsystem turns the feature maps of a clip's frames into features of the clip.
"""
