"""Noise and music in Debian packages: the rules of ``noise.tsv`` beside ``packages.tsv``."""

import re
from collections.abc import Mapping
from pathlib import Path

from wespeaker_qm.corpora.debian.fetching import unpack_packages
from wespeaker_qm.corpora.debian.packages import read_packages
from wespeaker_qm.utils.tables import read_tsv


def fetch_noise_clips(recipe_dir: Path, downloads: Path) -> dict[str, list[Path]]:
    """Fetch only the packages that hold noise or music, and list it as :func:`read_noise_clips` does.

    Raises:
        RecipeError: as :func:`~wespeaker_qm.corpora.debian.fetching.unpack_packages`.
    """
    names = {row["package"] for row in read_tsv(recipe_dir / "noise.tsv", ("package",))}
    packages = [package for name, package in read_packages(recipe_dir / "packages.tsv").items() if name in names]
    return read_noise_clips(recipe_dir, unpack_packages(packages, downloads))


def read_noise_clips(recipe_dir: Path, roots: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Category (noise or music) -> files, by the rules of noise.tsv (package, root, include and exclude regex)."""
    clips: dict[str, list[Path]] = {}
    for row in read_tsv(recipe_dir / "noise.tsv", ("package", "root", "include_regex", "exclude_regex", "category")):
        if row["package"] not in roots:
            continue
        root = roots[row["package"]] / row["root"]
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        for name in names:
            excluded = row["exclude_regex"] and re.search(row["exclude_regex"], name)
            if re.search(row["include_regex"], name) and not excluded:
                clips.setdefault(row["category"], []).append(root / name)
    return clips
