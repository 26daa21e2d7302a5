"""Importers: annotation files and folders of videos -> Manifest. One module for each format, found by its
being here.

A clip that an annotation lists but that is not on disk (Kinetics loses some every year) does not enter
the manifest: it is counted in ``Manifest.listed`` and named in ``Manifest.missing``.
"""
