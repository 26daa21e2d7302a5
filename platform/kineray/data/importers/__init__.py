"""Importers: annotation files and folders of videos -> Manifest. One module for each family of data sets.

A clip that an annotation lists but that is not on disk (Kinetics loses some every year) does not enter
the manifest: it is counted in ``Manifest.listed`` and named in ``Manifest.missing``.
"""

from kineray.data.importers.ava import from_ava, from_ava_kinetics
from kineray.data.importers.epic import from_epic
from kineray.data.importers.folders import from_folders
from kineray.data.importers.hmdb51 import from_hmdb51
from kineray.data.importers.kinetics import from_kinetics_csv, from_mini_kinetics
from kineray.data.importers.lists import from_path_label_list
from kineray.data.importers.ucf101 import from_ucf101

__all__ = [
    "from_ava",
    "from_ava_kinetics",
    "from_epic",
    "from_folders",
    "from_hmdb51",
    "from_kinetics_csv",
    "from_mini_kinetics",
    "from_path_label_list",
    "from_ucf101",
]
