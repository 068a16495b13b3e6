"""The corpus of ``egs/mini``: real voices from Debian packages, in minutes.

::

    packages.tsv -> .deb -> audio files -> (manifest.tsv: whose voice) -> utterances of 3.5 to 6 s -> data/mini/
                                                  those of valid and eval once more, each through a channel of its own

The tables of ``egs/mini`` say which clip holds which speaker; the recipe's ``corpus.yaml`` says which speakers validate
and how much of everybody is used. Evaluation speakers never train, nor are they heard in babble.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wespeaker_qm.corpora.debian.fetching import unpack_packages
from wespeaker_qm.corpora.debian.noise import read_noise_clips
from wespeaker_qm.corpora.debian.packages import read_packages
from wespeaker_qm.corpora.few_speakers import warn_of_few_speakers
from wespeaker_qm.corpora.mini.channels import write_channel_utterances
from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.mini.tables import (
    CHANNEL_SETS,
    SETS,
    TABLES,
    choose_packages,
    read_sessions,
    split_sessions,
)
from wespeaker_qm.corpora.mini.trial_lists import list_paths, write_trial_lists
from wespeaker_qm.corpora.mini.utterances import build_utterances, write_set
from wespeaker_qm.corpora.noise import build_noise_set, build_rirs
from wespeaker_qm.corpora.settings import read_settings
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.utils.done import DoneMarker, content_stamp, file_stamp
from wespeaker_qm.utils.files import sha256_of, write_text
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.text import read_names

logger = logging.getLogger(__name__)

_NO_RECIPE = ("downloads", "deb_dir", "packages", "without_tuxpaint", "expected")
"""Settings that say where the packages are, which, and what should come out; the others say what is made of them."""


def prepare(settings: MiniSettings, *, data: DataFolder, recipe_dir: Path, num_workers: int) -> None:
    """Download, unpack and build everything, unless nothing has changed; ``corpus.yaml`` is written last.

    Args:
        settings: which packages, and what to make of them. What the packages left out hold (speakers, noises) is left
            out.
        data: e.g. ``data/mini``; its sets are made anew.
        recipe_dir: holds ``corpus.yaml`` and the tables, ``egs/mini``.
        num_workers: processes; the result does not depend on them.

    Raises:
        RecipeError: packages cannot be had or lack files, too few speakers remain, or more than 5 % of the clips
            cannot be used.
    """
    pinned = read_packages(recipe_dir / "packages.tsv")
    names = choose_packages(pinned, settings.packages, settings.without_tuxpaint)
    marker = _done_marker(settings, names, data, recipe_dir)
    with stage("prepare", marker, others=_others(data)) as is_due:
        if not is_due:
            return
        packages = [package for name, package in pinned.items() if names is None or name in names]
        roots = unpack_packages(packages, settings.downloads, settings.deb_dir)
        directories = _build(settings, data, recipe_dir, roots, num_workers)
        if names is None and _recipe(settings) == _recipe(read_settings(MiniSettings, recipe_dir)):
            check_counts(settings.expected, directories)


def _build(
    settings: MiniSettings, data: DataFolder, recipe_dir: Path, roots: Mapping[str, Path], num_workers: int
) -> dict[str, DataDir]:
    """Make the corpus of the packages that are unpacked in ``roots``; returns its sets of speech."""
    sessions = read_sessions(recipe_dir, roots)
    members = split_sessions(sessions, settings.validation_speakers)

    data.info.unlink(missing_ok=True)
    earlier = _checked_audio(data)
    utterances = build_utterances(data, members, settings, num_workers)
    utterances |= write_channel_utterances(data, utterances, settings, num_workers)
    directories = {name: write_set(data.set(name).path, made, sessions) for name, made in utterances.items() if made}
    lists = write_trial_lists(data, directories, utterances)
    warn_of_few_speakers(len(directories["eval"].speakers), "take more packages (--packages)")
    noise, rirs = _write_augmentation(data, read_noise_clips(recipe_dir, roots), directories["train"], settings)
    write_checksums(data, [*directories.values(), noise, rirs])
    for path in earlier - _checked_audio(data):
        path.unlink(missing_ok=True)
    CorpusInfo(
        name=settings.name,
        description=settings.description,
        caveat=settings.caveat,
        licence="each package's own, from GPL-2 to CC-BY-3.0, with credits: egs/mini/README.md",
        trials=lists,
        headline=next(iter(lists)),
        validation=CHANNEL_SETS["valid"] if "valid" in directories else None,
        noise="noise",
        rirs="rirs",
    ).save(data.info)
    return directories


def _write_augmentation(
    data: DataFolder, clips: Mapping[str, Sequence[Path]], train: DataDir, settings: MiniSettings
) -> tuple[DataDir, DataDir]:
    rate, seed = settings.sample_rate, settings.seed
    noise = build_noise_set(
        data,
        clips,
        train,
        num_babble=settings.num_babble,
        sample_rate=rate,
        seed=seed,
        remedy=settings.bad_clips_remedy,
    )
    return noise, build_rirs(data, settings.num_rooms, sample_rate=rate, seed=seed)


def _recipe(settings: MiniSettings) -> dict[str, Any]:
    """The settings that say what is made of the packages."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in _NO_RECIPE}


def _done_marker(
    settings: MiniSettings, packages: Sequence[str] | None, data: DataFolder, recipe_dir: Path
) -> DoneMarker:
    """What the prepared data depend on. Downloads may be deleted afterwards."""
    inputs = [
        [content_stamp(recipe_dir / name) for name in TABLES],
        {**_recipe(settings), "kind": "mini", "expected": {}},
        packages,
        [file_stamp(deb) for deb in sorted(settings.deb_dir.glob("*.deb"))] if settings.deb_dir else None,
    ]
    outputs = [*prepared_files(data), data.path / "audio.sha256"]
    return DoneMarker(data.marker("prepare"), inputs, outputs, version=STAGE_VERSIONS["prepare"])


def _others(data: DataFolder) -> list[Path]:
    """All that is written, beside the marker's outputs."""
    sets = [data.set(name).path for name in (*SETS, *CHANNEL_SETS.values(), "noise", "rirs")]
    tables = [table for path in sets for table in (*DataDir.tables(path), path / "utt2package")]
    return [*tables, *list_paths(data), data.wav, data.bad_audio, data.bad_noise]


def write_checksums(data: DataFolder, sets: Sequence[DataDir]) -> None:
    """Write ``audio.sha256`` as sha256sum does, paths from ``data`` on: equal files mean equal audio."""
    paths = sorted((Path(path) for each in sets for path in each.wav.values()), key=lambda path: path.as_posix())
    lines = [f"{sha256_of(path)}  {path.relative_to(data.path).as_posix()}\n" for path in paths]
    write_text(data.path / "audio.sha256", "".join(lines))


def _checked_audio(data: DataFolder) -> set[Path]:
    """The files that ``audio.sha256`` names: those, and no others, were made here."""
    path = data.path / "audio.sha256"
    lines = read_names(path) if path.is_file() else []
    return {data.path / line.partition("  ")[2] for line in lines}


def check_counts(expected: Mapping[str, Sequence[int]], directories: Mapping[str, DataDir]) -> None:
    """Warn where speakers and utterances are not those that the recipe states.

    Args:
        expected: set -> [speakers, utterances].
        directories: set -> what was built.
    """
    for name, stated in expected.items():
        found = [len(directories[name].speakers), len(directories[name])]
        if found != list(stated):
            logger.warning("%s: %s speakers and utterances, expected %s (egs/mini/corpus.yaml)", name, found, stated)
