"""The corpus "my own recordings": any tree ``speaker/.../utterance.{wav,flac,ogg,opus,mp3,m4a}``.

::

    tree -> listing -> every file decoded once: faults, length, digest -> speakers split -> Kaldi directories, trials
                                                       training speakers -> babble --+-> noise, impulse responses

The folder below the root is the speaker; deeper folders only become part of the key. Sample rate and channels may vary
from file to file: packing brings all to 16 kHz mono. The recordings stay where they are.
"""

import argparse
import bisect
import hashlib
import itertools
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from wespeaker_qm.audio.io import AudioError
from wespeaker_qm.corpora.noise import build_noise_set, build_rirs
from wespeaker_qm.corpora.speaker_split import SpeakerSplit, parse_eval_speakers, split_speakers
from wespeaker_qm.corpus.bad_audio import BadAudio, read_checked_audio, refuse_bad_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.trials.lists import Trial, write_trials
from wespeaker_qm.utils.arguments import COUNT, COUNT_OR_NONE, FRACTION, SECONDS, SEED
from wespeaker_qm.utils.done import DoneMarker, file_digest, file_stamp
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.stage import begin, finish
from wespeaker_qm.utils.tables import write_rows

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the same sources and options are prepared otherwise."""

_DEBIAN = Path("egs/mini")
"""Its tables name the packages of ``--noise debian``, and the noises in them."""

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a"})
_NUM_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this corpus for ``wespeaker-qm prepare``; the same names may stand in ``corpus.yaml``."""
    group = parser.add_argument_group("corpus folder")
    group.add_argument("--audio_root", type=Path, help="the tree speaker/.../utterance.{wav,flac,ogg,opus,mp3,m4a}")
    group.add_argument(
        "--eval_speakers",
        default="0.25",
        help="speakers to evaluate, who never train: a fraction of all (at least 2 are drawn), names separated by "
        "commas, or a file with one name a line (default %(default)s)",
    )
    group.add_argument(
        "--valid_speakers",
        type=FRACTION,
        default=0.1,
        help="fraction of the other speakers set aside for the check while training; when that is fewer than 2, there "
        "is no check (default %(default)s)",
    )
    group.add_argument(
        "--min_duration", type=SECONDS, default=0.5, help="shorter recordings, in s, are refused (default %(default)s)"
    )
    group.add_argument(
        "--max_bad_fraction",
        type=FRACTION,
        default=0.0,
        help="fraction of the recordings that may be refused (unreadable, silent, too short, the same twice) and left "
        "out; more stops the stage (default %(default)s)",
    )
    group.add_argument(
        "--max_trials",
        type=COUNT,
        default=200_000,
        help="targets, and non-targets, of a trial list; of more a sample is drawn (default %(default)s)",
    )
    group.add_argument(
        "--noise",
        default="debian",
        help="noises and music beside babble of the training speakers: 'debian' downloads two packages (232 MB) as "
        "egs/mini does, 'babble' takes none, anything else is a tree of audio files in which a folder 'music' holds "
        "music (default %(default)s)",
    )
    group.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads/mini"),
        help="packages of --noise debian (default %(default)s)",
    )
    group.add_argument(
        "--num_babble", type=COUNT_OR_NONE, default=200, help="mixtures of training speakers (default %(default)s)"
    )
    group.add_argument("--num_rooms", type=COUNT, default=300, help="simulated rooms (default %(default)s)")
    group.add_argument("--seed", type=SEED, default=42, help="of all draws (default %(default)s)")


NOISE_SOURCES = ("debian", "babble")
OPTIONS = (
    "audio_root", "eval_speakers", "valid_speakers", "min_duration", "max_bad_fraction", "max_trials", "noise",
    "downloads", "num_babble", "num_rooms", "seed",
)  # fmt: skip


class Recording(NamedTuple):
    """One audio file: unique key, speaker (both free of white space) and path."""

    key: str
    speaker: str
    path: str


class Listing(NamedTuple):
    """What a tree holds; ``others`` counts what is not audio of a speaker, by what it is."""

    recordings: list[Recording]
    others: Counter[str]


class Facts(NamedTuple):
    """What decoding one file told; ``fault`` says why it cannot be used, and then the rest is empty."""

    duration_s: float
    sample_rate: int
    digest: str
    fault: str


def prepare(args: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Stage 1: write Kaldi directories, trials, noise, impulse responses and, last, ``corpus.yaml`` to ``args.data``.

    Args:
        args: the options of :func:`add_arguments`, and ``data`` and ``num_workers``.
        settings: the recipe's ``corpus.yaml``, whose values are already the defaults of the options.

    Raises:
        RecipeError: see ``egs/folder/README.md`` for what is refused.
    """
    _check_settings(settings, args.corpus)
    root = _audio_root(args.audio_root, args.corpus)
    data_dir: Path = args.data
    _refuse_overlap(args, root)
    listing = list_recordings(root)
    _report(listing, root)
    eval_speakers = parse_eval_speakers(args.eval_speakers)
    if not isinstance(eval_speakers, float):
        eval_speakers = [safe_key([name]) for name in eval_speakers]
    # A split that cannot be is told before hours of decoding.
    split_speakers(_count_by_speaker(listing.recordings), eval_speakers, args.valid_speakers, args.seed)

    noise_tree = {} if args.noise in NOISE_SOURCES else _tree_clips(Path(args.noise))
    inputs = [
        [(recording, file_stamp(recording.path)) for recording in listing.recordings],
        {kind: [file_stamp(path) for path in paths] for kind, paths in noise_tree.items()},
        {name: getattr(args, name) for name in OPTIONS},
        eval_speakers,
    ]
    if args.noise == "debian":
        inputs.append([file_digest(_DEBIAN / table) for table in ("packages.tsv", "noise.tsv")])
    marker = DoneMarker(data_dir / ".done" / "prepare", inputs, prepared_files(data_dir), version=VERSION)
    sets = ("train", "valid", "eval", "noise", "rirs")
    tables = [table for name in sets for table in DataDir.tables(data_dir / name)]
    others = ["trials/all", "trials/valid", "wav/noise", "wav/rirs", "bad_audio.tsv", "shared_audio.tsv"]
    if not begin(marker, "prepare", others=[*tables, *(data_dir / name for name in others)]):
        return
    (data_dir / "corpus.yaml").unlink(missing_ok=True)

    facts = examine(listing.recordings, args.min_duration, args.num_workers)
    usable = refuse_unusable(listing.recordings, facts, args.max_bad_fraction, data_dir)
    split = split_speakers(_count_by_speaker(usable), eval_speakers, args.valid_speakers, args.seed)
    members = {"train": split.train, "valid": split.valid, "eval": split.evaluation}
    directories = {
        name: _write_set(data_dir / name, speakers, usable, facts) for name, speakers in members.items() if speakers
    }
    if not split.valid:
        logger.info("too few speakers to set some aside: no check while training (--valid_speakers)")
    for name in [name for name in directories if name != "train"]:
        trials = draw_trials(directories[name].speaker, args.max_trials, args.seed)
        list_name = "all" if name == "eval" else name
        write_trials(data_dir / "trials" / list_name, trials)
        num_targets = sum(trial.is_target for trial in trials)
        logger.info("trials %s: %d targets, %d non-targets", list_name, num_targets, len(trials) - num_targets)
    clips = _debian_clips(args.downloads) if args.noise == "debian" else noise_tree
    build_noise_set(data_dir, clips, directories["train"], num_babble=args.num_babble, seed=args.seed)
    build_rirs(data_dir, args.num_rooms, seed=args.seed)
    _corpus_info(data_dir, root, directories, split).save(data_dir / "corpus.yaml")
    finish(marker)


def list_recordings(root: Path) -> Listing:
    """Walk ``root``, following links, in the order of the names.

    Raises:
        RecipeError: two files or two speakers get the same key, or a name is not printable text.
    """
    recordings: dict[str, Recording] = {}
    folder_of_speaker: dict[str, str] = {}
    others: Counter[str] = Counter()
    for path in _walk(root, {os.path.realpath(root)}):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts):
            others["hidden"] += 1
        elif path.suffix.lower() not in SUFFIXES:
            others[path.suffix or "without extension"] += 1
        elif len(parts) == 1:
            others["audio that is in no speaker's folder"] += 1
        else:
            _check_name(path)
            speaker, key = safe_key(parts[:1]), safe_key((*parts[:-1], path.stem))
            if folder_of_speaker.setdefault(speaker, parts[0]) != parts[0]:
                raise RecipeError(
                    f"{root}: the folders {folder_of_speaker[speaker]!r} and {parts[0]!r} would both be speaker "
                    f"{speaker!r}; rename one"
                )
            if key in recordings:
                raise RecipeError(f"{recordings[key].path} and {path} would both get the key {key!r}; rename one")
            recordings[key] = Recording(key, speaker, str(path))
    return Listing(list(recordings.values()), others)


def safe_key(parts: Iterable[str]) -> str:
    """Join names to a key without white space, slashes and other characters that upset Kaldi's tables.

    >>> safe_key(["Anna B.", "day 1", "hello (2)"])
    'Anna_B.-day_1-hello__2_'
    """
    return re.sub(r"[^\w.+=@-]", "_", "-".join(parts))


def _walk(folder: Path, visited: set[str]) -> Iterable[Path]:
    """Yield all files below ``folder``, each linked folder once."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if not entry.is_dir():
            yield path
        elif os.path.realpath(path) not in visited:
            visited.add(os.path.realpath(path))
            yield from _walk(path, visited)


def _check_name(path: Path) -> None:
    if not str(path).isprintable():
        raise RecipeError(f"{str(path)!a}: the name has characters that are not printable text; rename the file")


def _report(listing: Listing, root: Path) -> None:
    speakers = _count_by_speaker(listing.recordings)
    logger.info("%s: %d recordings in %d speakers' folders", root, len(listing.recordings), len(speakers))
    if listing.others:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(listing.others.items()))
        logger.warning("%s: %d other files are left alone: %s", root, listing.others.total(), counts)
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    empty = [name for name in folders if safe_key([name]) not in speakers]
    if empty:
        logger.warning("%s: %d folders hold no recording: %s", root, len(empty), ", ".join(empty[:_NUM_SHOWN]))


def _count_by_speaker(recordings: Iterable[Recording]) -> Counter[str]:
    return Counter(recording.speaker for recording in recordings)


def examine(recordings: Sequence[Recording], min_duration_s: float, num_workers: int) -> dict[str, Facts]:
    """Decode every file once: key -> facts."""
    results = ordered_map(partial(_examine_file, min_duration_s=min_duration_s), recordings, num_workers)
    checked = tqdm(zip(recordings, results, strict=True), total=len(recordings), desc="check audio", unit=" files")
    facts = {recording.key: result for recording, result in checked}
    rates = Counter(fact.sample_rate for fact in facts.values() if not fact.fault)
    if len(rates) > 1:
        counts = ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(rates.items()))
        logger.warning("sample rates differ (%s): where they differ by speaker, they give the speaker away", counts)
    return facts


def _examine_file(recording: Recording, min_duration_s: float) -> Facts:
    try:
        waveform, sample_rate = read_checked_audio(recording.path, min_duration_s)
    except AudioError as error:
        return Facts(0.0, 0, "", str(error))
    # Rounded to 16 bits, so that a wav file and its flac copy agree.
    digest = hashlib.sha256(np.rint(waveform * 32767).astype("<i2").tobytes())
    return Facts(len(waveform) / sample_rate, sample_rate, f"{sample_rate} {digest.hexdigest()}", "")


def refuse_unusable(
    recordings: Sequence[Recording], facts: Mapping[str, Facts], max_bad_fraction: float, data_dir: Path
) -> list[Recording]:
    """Return the recordings to use.

    Left out, when ``max_bad_fraction`` allows it: files with a fault, and second copies within one speaker, whose
    target trial any system would pass. Never allowed: the same audio under two speakers.

    Raises:
        RecipeError: too much bad audio (listed in ``bad_audio.tsv``), or shared audio (listed in ``shared_audio.tsv``).
    """
    bad, usable = [], []
    first_of: dict[str, Recording] = {}
    shared = []
    for recording in recordings:
        fault, digest = facts[recording.key].fault, facts[recording.key].digest
        if fault:
            bad.append(BadAudio(recording.key, recording.path, fault))
            continue
        first = first_of.setdefault(digest, recording)
        if first is recording:
            usable.append(recording)
        elif first.speaker == recording.speaker:
            bad.append(BadAudio(recording.key, recording.path, f"the same audio as {first.path}"))
        else:
            shared.append((first.speaker, first.path, recording.speaker, recording.path))
    _refuse_shared(shared, data_dir / "shared_audio.tsv")
    refuse_bad_audio(bad, len(recordings), max_bad_fraction, data_dir / "bad_audio.tsv")
    return usable


def _refuse_shared(shared: Sequence[tuple[str, str, str, str]], list_path: Path) -> None:
    if not shared:
        list_path.unlink(missing_ok=True)
        return
    write_rows(list_path, [("speaker", "path", "other_speaker", "other_path"), *shared], separator="\t")
    shown = "".join(f"\n  {path} = {other_path}" for _, path, _, other_path in shared[:_NUM_SHOWN])
    more = f"\n  ... and {len(shared) - _NUM_SHOWN} more" if len(shared) > _NUM_SHOWN else ""
    raise RecipeError(
        f"{list_path}: {len(shared)} pair(s) of files hold the same audio under two speakers:{shown}{more}\n"
        "One of each pair has the wrong speaker, or the two folders are one person: remove the file or join the folders"
    )


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
    logger.info("%s: %d speakers, %d utterances, %.2f h", path.name, len(members), len(directory), hours)
    return directory


def draw_trials(speaker: Mapping[str, str], max_trials: int, seed: int) -> list[Trial]:
    """All pairs of different utterances, sorted; of more than ``max_trials`` targets or non-targets a seeded sample.

    Pairs are numbered and drawn by number, so that a list of a million utterances costs no more than its sample.

    Args:
        speaker: utterance -> speaker.
        max_trials: largest number of targets, and of non-targets.
        seed: of the sample.
    """
    rng = random.Random(seed)
    keys = sorted(speaker, key=lambda key: (speaker[key], key))
    group_sizes = [len(list(group)) for _, group in itertools.groupby(keys, key=speaker.__getitem__)]
    # Utterance p has its own speaker's later utterances up to group_end[p], then everybody else's.
    group_end = [
        end for size, end in zip(group_sizes, itertools.accumulate(group_sizes), strict=True) for _ in range(size)
    ]
    trials = []
    for is_target in (True, False):
        if is_target:
            partners = [range(position + 1, end) for position, end in enumerate(group_end)]
        else:
            partners = [range(end, len(keys)) for end in group_end]
        ends = list(itertools.accumulate(map(len, partners)))
        numbers: Iterable[int] = range(ends[-1])
        if ends[-1] > max_trials:
            numbers = rng.sample(range(ends[-1]), max_trials)
        for number in numbers:
            position = bisect.bisect_right(ends, number)
            partner = partners[position][number - ends[position]]
            enrolment, test = sorted((keys[position], keys[partner]))
            trials.append(Trial(enrolment, test, is_target))
    return sorted(trials)


def _tree_clips(root: Path) -> dict[str, list[Path]]:
    """Category (``noise``, ``music``) -> audio files below ``root``; a folder ``music`` holds music.

    Raises:
        RecipeError: no such folder, or no such files below it.
    """
    if not root.is_dir():
        raise RecipeError(f"--noise {root}: no such folder; expected 'debian', 'babble', or a tree of audio files")
    clips: dict[str, list[Path]] = {}
    num_speech = 0
    for path in _walk(root, {os.path.realpath(root)}):
        folders = path.relative_to(root).parts[:-1]
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if "speech" in folders:
            num_speech += 1
        else:
            clips.setdefault("music" if "music" in folders else "noise", []).append(path)
    if num_speech:
        logger.info(
            "%s: %d files below 'speech' are left out; babble of the training speakers serves", root, num_speech
        )
    if not clips:
        raise RecipeError(f"--noise {root}: no audio files ({', '.join(sorted(SUFFIXES))}) of noise or music below it")
    return clips


def _debian_clips(downloads: Path) -> dict[str, list[Path]]:
    """Noise and music that ``egs/mini`` names, from the two packages that hold them."""
    from wespeaker_qm.corpora.debian import fetch_packages, read_packages, read_tsv, unpack_audio
    from wespeaker_qm.corpora.mini import read_noise_clips

    names = {row["package"] for row in read_tsv(_DEBIAN / "noise.tsv", ("package",))}
    packages = [package for name, package in read_packages(_DEBIAN / "packages.tsv").items() if name in names]
    try:
        debs = fetch_packages(packages, downloads)
    except RecipeError as error:
        raise RecipeError(
            f"noises for augmentation cannot be had: {error}\nHere, choose --noise babble (no download) or --noise "
            "FOLDER (noises of your own)"
        ) from error
    roots = {name: downloads / "unpacked" / name for name in debs}
    for name, deb in debs.items():
        unpack_audio(deb, roots[name])
    return read_noise_clips(_DEBIAN, roots)


def _check_settings(settings: Mapping[str, Any], recipe_dir: Path) -> None:
    for key in settings:
        if key not in (*OPTIONS, "kind"):
            nearest = get_close_matches(key, OPTIONS, 3, 0)
            raise RecipeError(f"{recipe_dir / 'corpus.yaml'}: unknown key {key!r}; nearest: {', '.join(nearest)}")


def _audio_root(audio_root: Path | None, recipe_dir: Path) -> Path:
    if audio_root is None:
        raise RecipeError(
            "no recordings named: give --audio_root FOLDER, a tree speaker/.../utterance.wav "
            f"(run.sh --prepare_opts '--audio_root FOLDER'), or write audio_root into {recipe_dir / 'corpus.yaml'}"
        )
    root = Path(audio_root)
    if not root.is_dir():
        raise RecipeError(f"--audio_root {root}: no such folder; expected a tree speaker/.../utterance.wav")
    if (root / "wav.scp").is_file():
        raise RecipeError(
            f"--audio_root {root}: a Kaldi directory (it has wav.scp), expected a tree speaker/.../utterance.wav; its "
            "tables would be ignored. Name it in a corpus.yaml of your own, beside the trials, and begin with stage 2"
        )
    return root


def _refuse_overlap(args: argparse.Namespace, root: Path) -> None:
    """Refuse folders within each other: what this corpus writes would be a speaker, or a noise, of its next run.

    Raises:
        RecipeError: so they are; links are followed.
    """
    made = {"--data": Path(args.data)}
    read = {"--audio_root": root}
    if args.noise == "debian":
        made["--downloads"] = Path(args.downloads)
    elif args.noise not in NOISE_SOURCES:
        read["--noise"] = Path(args.noise)
    for (written, target), (source, tree) in itertools.product(made.items(), read.items()):
        ends = [Path(os.path.realpath(folder)) for folder in (target, tree)]
        if ends[0].is_relative_to(ends[1]) or ends[1].is_relative_to(ends[0]):
            where = "the same folder as" if ends[0] == ends[1] else "not apart from"
            raise RecipeError(
                f"{written} {target}: {where} {source} {tree} ({ends[0]} and {ends[1]}), so what is written there "
                f"would be taken for recordings; expected two folders of which none holds the other: give another "
                f"{written}, or move the recordings of {source} into a folder of their own; nothing has been touched"
            )


def _corpus_info(data_dir: Path, root: Path, directories: Mapping[str, DataDir], split: SpeakerSplit) -> CorpusInfo:
    num_speakers = sum(map(len, split))
    hours = sum(sum(directory.duration_s.values()) for directory in directories.values()) / 3600
    return CorpusInfo(
        name=data_dir.name,
        description=f"own recordings in {root}: {num_speakers} speakers, {hours:.2f} h",
        caveat=(
            f"{len(split.evaluation)} evaluation speakers of one's own recordings: where each speaker has a room or "
            "microphone of their own, a system may recognise that instead of the voice; compare with the LTAS "
            "baseline, which knows nothing of voices."
        ),
        trials={"all": "eval"},
        headline="all",
        validation="valid" if "valid" in directories else None,
        noise="noise",
        rirs="rirs",
    )
