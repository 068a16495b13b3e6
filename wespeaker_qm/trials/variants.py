"""The variants of a run's scores that stages 6 and 7 make: which were made, and how they are removed."""

from collections.abc import Iterable
from pathlib import Path

from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.utils.checksums import remove_checked
from wespeaker_qm.utils.done import discard
from wespeaker_qm.utils.layout import RunFolder

NORMALISED = ("snorm", "asnorm")
CALIBRATED = "calibrated"
VARIANTS = (*NORMALISED, CALIBRATED)
"""Kinds of scores made from the cosines of a run, in the order of making."""


def exists(path: Path) -> bool:
    """Whether scores are there, as text or as a cache alone."""
    return path.is_file() or cache_path(path).is_file()


def present_variants(run: RunFolder, trial_lists: Iterable[str]) -> list[str]:
    """The variants that are there for all of the lists."""
    lists = list(trial_lists)
    return [variant for variant in VARIANTS if all(exists(run.scores(name, variant)) for name in lists)]


def discard_variant(run: RunFolder, trial_lists: Iterable[str], variant: str) -> None:
    """Remove scores that are no longer true, as far as stage 6 or 7 wrote them and nobody has changed them since."""
    discard(run.marker(variant), [run.scores(name, variant) for name in trial_lists], remove)


def remove(path: Path) -> None:
    """Remove scores, text and cache."""
    remove_checked(path)
    remove_checked(cache_path(path))
