"""Importers: annotation files and folders of videos -> Manifest. All modules of this package are loaded.

A clip that the annotations list but that is not on disk (Kinetics loses some every year) is not in the
manifest's samples: it is counted in ``Manifest.listed`` and named in ``Manifest.missing``.
"""
