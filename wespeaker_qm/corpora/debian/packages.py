"""Which packages: ``packages.tsv`` of a recipe, pinned by version and SHA-256."""

from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.utils.tables import read_tsv

REMEDY = (
    "Either connect a Debian or Ubuntu machine to its package mirror, or fetch the .deb files elsewhere and name their "
    "folder with --deb_dir, or train on your own recordings: see egs/folder/README.md (run.sh --corpus egs/folder)"
)


class Package(NamedTuple):
    """A pinned package: the version that the tables of the recipe were made from."""

    name: str
    version: str
    download_mb: float
    sha256: str


def read_packages(path: Path | str) -> dict[str, Package]:
    """Read ``packages.tsv`` (columns package, version, download such as ``18.3MB``, sha256, ...): name -> package."""
    packages = {}
    for row in read_tsv(path, ("package", "version", "download", "sha256")):
        size_mb = float(row["download"].removesuffix("MB"))
        packages[row["package"]] = Package(row["package"], row["version"], size_mb, row["sha256"])
    return packages
