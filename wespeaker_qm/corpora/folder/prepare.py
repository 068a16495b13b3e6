"""The corpus "my own recordings": any tree ``speaker/.../utterance.{wav,flac,ogg,opus,mp3,m4a}``.

::

    tree -> listing -> every file decoded once: faults, length, digest -> speakers split -> Kaldi directories, trials
                                                       training speakers -> babble --+-> noise, impulse responses

The folder below the root is the speaker; deeper folders only become part of the key. Sample rate and channels may vary
from file to file: packing brings all to 16 kHz mono. The recordings stay where they are.
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wespeaker_qm.corpora.debian.noise import fetch_noise_clips
from wespeaker_qm.corpora.few_speakers import warn_of_few_speakers
from wespeaker_qm.corpora.folder.examination import Facts, examine, refuse_unusable
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.corpora.folder.speaker_split import (
    Part,
    SpeakerSplit,
    more_speakers,
    parse_eval_speakers,
    split_speakers,
)
from wespeaker_qm.corpora.folder.tree import (
    Recording,
    count_by_speaker,
    list_noises,
    list_recordings,
    log_listing,
    refuse_without_speakers,
    safe_key,
)
from wespeaker_qm.corpora.folder.trials import draw_trials
from wespeaker_qm.corpora.noise import build_noise_set, build_rirs
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.evaluate.evidence import LEAST_SPEAKERS
from wespeaker_qm.trials.lists import write_trials
from wespeaker_qm.utils.done import DoneMarker, file_digest, file_stamp
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.remedies import with_run_sh
from wespeaker_qm.utils.shipped import shipped
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)

_DEBIAN = "egs/mini"
"""Its tables name the packages of ``--noise debian``, and the noises in them."""
_NOISE_SOURCES = ("debian", "babble")
"""Values of ``--noise`` that are no trees."""


def prepare(settings: FolderSettings, *, data: DataFolder, recipe_dir: Path, num_workers: int) -> None:
    """Write Kaldi directories, trials, noise, impulse responses and, last, ``corpus.yaml``, unless nothing has changed.

    Args:
        settings: where the recordings are, and what to make of them.
        data: folder to write.
        recipe_dir: where ``corpus.yaml`` with the settings lies, for messages.
        num_workers: processes; the result does not depend on them.

    Raises:
        RecipeError: see ``egs/folder/README.md`` for what is refused.
    """
    root = _audio_root(settings.audio_root, recipe_dir)
    _refuse_overlap(settings, root, data)
    listing = list_recordings(root)
    log_listing(listing, root)
    refuse_without_speakers(listing, f"--audio_root {root}")
    eval_speakers = parse_eval_speakers(settings.eval_speakers)
    if isinstance(eval_speakers, list):
        eval_speakers = [safe_key([name]) for name in eval_speakers]
    # A split that cannot be is told before hours of decoding.
    num_recordings = count_by_speaker(listing.recordings)
    split = split_speakers(num_recordings, eval_speakers, settings.valid_speakers, settings.seed)

    noise_tree = {} if settings.noise in _NOISE_SOURCES or not split.train else list_noises(Path(settings.noise))
    inputs = [
        [(recording, file_stamp(recording.path)) for recording in listing.recordings],
        {kind: [file_stamp(path) for path in paths] for kind, paths in noise_tree.items()},
        dataclasses.asdict(settings),
        eval_speakers,
    ]
    if settings.noise == "debian" and split.train:
        inputs.append([file_digest(shipped(_DEBIAN) / table) for table in ("packages.tsv", "noise.tsv")])
    outputs = prepared_files(data)
    marker = DoneMarker(data.marker("prepare"), inputs, outputs, version=STAGE_VERSIONS["prepare"])
    sets = ("train", "valid", "eval", "noise", "rirs")
    tables = [table for name in sets for table in DataDir.tables(data.path / name)]
    others = [
        "trials/all",
        "trials/valid",
        "wav/noise",
        "wav/rirs",
        "bad_audio.tsv",
        "bad_noise.tsv",
        "shared_audio.tsv",
    ]
    with stage("prepare", marker, others=[*tables, *(data.path / name for name in others)]) as is_due:
        if is_due:
            directories, split = _build(settings, data, listing.recordings, eval_speakers, num_workers)
            if split.train:  # else nothing is augmented
                clips = _debian_clips(settings.downloads) if settings.noise == "debian" else noise_tree
                build_noise_set(
                    data,
                    clips,
                    directories["train"],
                    num_babble=settings.num_babble,
                    seed=settings.seed,
                    max_bad_fraction=settings.max_bad_fraction,
                )
                build_rirs(data, settings.num_rooms, seed=settings.seed)
            _corpus_info(data, root, directories, split).save(data.info)


def _build(
    settings: FolderSettings,
    data: DataFolder,
    recordings: Sequence[Recording],
    eval_speakers: float | Part | Sequence[str] | None,
    num_workers: int,
) -> tuple[dict[str, DataDir], SpeakerSplit]:
    """Write the sets of speech and their trial lists."""
    data.info.unlink(missing_ok=True)
    facts = examine(recordings, settings.min_duration, num_workers)
    usable = refuse_unusable(recordings, facts, settings.max_bad_fraction, data)
    split = split_speakers(count_by_speaker(usable), eval_speakers, settings.valid_speakers, settings.seed)
    members = {"train": split.train, "valid": split.valid, "eval": split.evaluation}
    directories = {
        name: _write_set(data.set(name).path, speakers, usable, facts) for name, speakers in members.items() if speakers
    }
    remedies = more_speakers(sum(map(len, split)), LEAST_SPEAKERS) if split.train else "add speakers"
    warn_of_few_speakers(len(split.evaluation), remedies)
    if not split.train:
        logger.info(
            "all speakers are evaluated, nobody trains%s",
            with_run_sh(": evaluate a finished model on them (run.sh --model)"),
        )
    elif not split.valid:
        logger.info("too few speakers to set some aside: no check while training (--valid_speakers)")
    for name in [name for name in directories if name != "train"]:
        trials = draw_trials(directories[name].speaker, settings.max_trials, settings.seed)
        list_name = "all" if name == "eval" else name
        write_trials(data.trials(list_name), trials)
        num_targets = sum(trial.is_target for trial in trials)
        logger.info(
            "trials %s: %s, %s",
            list_name,
            counted(num_targets, "target", "targets"),
            counted(len(trials) - num_targets, "non-target", "non-targets"),
        )
    return directories, split


def _write_set(
    path: Path, speakers: Sequence[str], recordings: Sequence[Recording], facts: Mapping[str, Facts]
) -> DataDir:
    members = set(speakers)
    chosen = [recording for recording in recordings if recording.speaker in members]
    directory = DataDir(
        wav={recording.key: recording.path for recording in chosen},
        speaker={recording.key: recording.speaker for recording in chosen},
        duration_s={recording.key: facts[recording.key].duration_s for recording in chosen},
    )
    directory.write(path)
    hours = sum(directory.duration_s.values()) / 3600
    logger.info(
        "%s: %s, %s, %.2f h",
        path.name,
        counted(len(members), "speaker", "speakers"),
        counted(len(directory), "utterance", "utterances"),
        hours,
    )
    return directory


def _debian_clips(downloads: Path) -> dict[str, list[Path]]:
    """Noise and music that ``egs/mini`` names, from the two packages that hold them."""
    try:
        return fetch_noise_clips(shipped(_DEBIAN), downloads)
    except RecipeError as error:
        raise RecipeError(
            f"noises for augmentation cannot be had: {error}\nHere, choose --noise babble (no download) or --noise "
            "FOLDER (noises of your own)"
        ) from error


def _audio_root(root: Path | None, recipe_dir: Path) -> Path:
    if root is None:
        raise RecipeError(
            "no recordings named: give --audio_root FOLDER, a tree speaker/.../utterance.wav "
            f"(run.sh --prepare_opts '--audio_root FOLDER'), or write audio_root into {recipe_dir / 'corpus.yaml'}"
        )
    name = f"--audio_root {root}"
    if not root.is_dir():
        found = "a file" if root.is_file() else "no such folder"
        raise RecipeError(f"{name}: {found}; expected a tree speaker/.../utterance.wav")
    if (root / "wav.scp").is_file():
        raise RecipeError(
            f"{name}: a Kaldi directory (it has wav.scp), expected a tree speaker/.../utterance.wav; its tables would "
            "be ignored. Name it in a corpus.yaml of your own, beside the trials, and begin with stage 2 of run.sh"
        )
    return root


def _refuse_overlap(settings: FolderSettings, root: Path, data: DataFolder) -> None:
    """Refuse folders within each other: what this corpus writes would be a speaker, or a noise, of its next run.

    Raises:
        RecipeError: so they are; links are followed.
    """
    made = {"--data": data.path}
    read = {"--audio_root": root}
    if settings.noise == "debian":
        made["--downloads"] = settings.downloads
    elif settings.noise not in _NOISE_SOURCES:
        read["--noise"] = Path(settings.noise)
    if "--noise" in read and _overlap(root, read["--noise"]):
        raise RecipeError(
            f"--noise {settings.noise}: not apart from --audio_root {root}, so noises would be taken for speakers, or "
            "recordings for noises; expected two folders of which none holds the other: move one of them away; nothing "
            "has been touched"
        )
    for (written, target), (source, tree) in itertools.product(made.items(), read.items()):
        ends = [Path(os.path.realpath(folder)) for folder in (target, tree)]
        if _overlap(target, tree):
            where = "the same folder as" if ends[0] == ends[1] else "not apart from"
            raise RecipeError(
                f"{written} {target}: {where} {source} {tree} ({ends[0]} and {ends[1]}), so what is written there "
                f"would be taken for recordings; expected two folders of which none holds the other: give another "
                f"{written}, or move the recordings of {source} into a folder of their own; nothing has been touched"
            )


def _overlap(one: Path, other: Path) -> bool:
    """Whether one folder holds the other, or is the same; links are followed."""
    ends = [Path(os.path.realpath(folder)) for folder in (one, other)]
    return ends[0].is_relative_to(ends[1]) or ends[1].is_relative_to(ends[0])


def _corpus_info(data: DataFolder, root: Path, directories: Mapping[str, DataDir], split: SpeakerSplit) -> CorpusInfo:
    num_speakers = sum(map(len, split))
    hours = sum(sum(directory.duration_s.values()) for directory in directories.values()) / 3600
    return CorpusInfo(
        name=data.path.name,
        description=f"own recordings in {root}: {counted(num_speakers, 'speaker', 'speakers')}, {hours:.2f} h",
        caveat=(
            f"{counted(len(split.evaluation), 'evaluation speaker', 'evaluation speakers')} of one's own recordings: "
            "where each speaker has a room or "
            "microphone of their own, a system may recognise that instead of the voice; compare with the LTAS "
            "baseline, which knows nothing of voices."
        ),
        trials={"all": "eval"},
        headline="all",
        validation="valid" if "valid" in directories else None,
        train="train" if "train" in directories else None,
        noise="noise" if "train" in directories else None,
        rirs="rirs" if "train" in directories else None,
    )
