"""The corpus of ``egs/mini``: real voices from Debian packages, in minutes.

::

    packages.tsv -> .deb -> audio files -> (manifest.tsv: whose voice) -> utterances of 3.5 to 6 s -> data/mini/

The tables of ``egs/mini`` say which clip holds which speaker; the recipe's ``corpus.yaml`` says which speakers validate
and how much of everybody is used. Evaluation speakers never train, nor are they heard in babble.
"""

import argparse
import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from wespeaker_qm.audio.io import AudioError, RawFormat, read_audio, write_wav
from wespeaker_qm.corpora.debian import Package, read_packages, read_tsv, sha256_of, unpack_packages
from wespeaker_qm.corpora.joining import Piece, choose_evenly, join_pieces, plan_utterances, share_out, sound_pieces
from wespeaker_qm.corpora.noise import build_noise_set, build_rirs
from wespeaker_qm.corpus.bad_audio import BadAudio, refuse_bad_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.trials.lists import Trial, make_trials, write_trials
from wespeaker_qm.utils.arguments import COUNT, COUNT_OR_NONE, SAMPLE_RATE_HZ, SECONDS, SEED
from wespeaker_qm.utils.done import DoneMarker, content_stamp, file_stamp
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.stage import begin, finish
from wespeaker_qm.utils.tables import read_rows, write_rows

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the same sources and options are prepared otherwise."""

TABLES = ("packages.tsv", "speakers.tsv", "manifest.tsv", "noise.tsv")
TUXPAINT = "tuxpaint-stamps-default"
MIN_PRESENT = 0.95
MAX_BAD_CLIPS = 0.05
MIN_UTTERANCES = 2
# The two formats without a header: asterisk's GSM prompts and the mu-law digits of saytime.
RAW_FORMATS = {".gsm": RawFormat(8000, "gsm610"), ".au": RawFormat(8000, "ulaw")}
GENDERS = {"M": "m", "F": "f", "C": "c", "?": "u"}
UNKNOWN_GENDER = GENDERS["?"]
SETS = ("train", "valid", "eval")
# In this order the first list with both kinds of trials is the headline (a subset of packages may lack some).
_NUMBERS = {
    "sample_rate": SAMPLE_RATE_HZ,
    "min_utterance_s": SECONDS,
    "max_utterance_s": SECONDS,
    "max_utterances_per_speaker": COUNT,
    "max_eval_utterances_per_session": COUNT,
    "num_babble": COUNT_OR_NONE,
    "num_rooms": COUNT,
    "seed": SEED,
}
"""Numbers of ``corpus.yaml``, held to what an option of the kind takes."""
HEADLINES = ("same_package_gender", "same_gender", "all")


@dataclass(frozen=True, kw_only=True)
class MiniRecipe:
    """``egs/mini/corpus.yaml``."""

    kind: str
    """``mini``: what bin/prepare.py goes by."""
    name: str
    """Name of the corpus, and of its folder below ``data``."""
    description: str
    """One line for reports."""
    caveat: str
    """A sentence shown beside every figure."""
    validation_speakers: list[str]
    """Training speakers (of speakers.tsv) set aside for the check while training."""
    sample_rate: int = 16000
    """In Hz."""
    min_utterance_s: float = 3.5
    """Clips are joined until they are as long as this."""
    max_utterance_s: float = 6.0
    """... and cut at this length."""
    max_utterances_per_speaker: int = 60
    """Spread evenly over the sessions of a speaker and over the clips of a session."""
    max_eval_utterances_per_session: int = 22
    """For evaluation, so that a few talkative speakers do not make nearly all target trials."""
    num_babble: int = 200
    """Mixtures of training speakers."""
    num_rooms: int = 300
    """Simulated rooms, one impulse response each."""
    seed: int = 42
    """Of babble and rooms; the utterances involve no chance."""
    expected: dict[str, list[int]] = field(default_factory=dict)
    """Set -> [speakers, utterances] of the complete corpus; a build that differs says so."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], source: Path | str) -> "MiniRecipe":
        """Check the keys of ``corpus.yaml``.

        Raises:
            RecipeError: an unknown or missing key, or a number that means nothing; the message names ``source``.
        """
        fields = dataclasses.fields(cls)
        names = [entry.name for entry in fields]
        for key in settings:
            if key not in names:
                nearest = ", ".join(get_close_matches(str(key), names, 3, 0))
                raise RecipeError(f"{source}: unknown key {key!r}; nearest: {nearest}")
        for entry in fields:
            required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
            if required and entry.name not in settings:
                raise RecipeError(f"{source}: key {entry.name!r} is missing")
            value = settings.get(entry.name, entry.default)
            if (check := _NUMBERS.get(entry.name)) is not None:
                try:
                    check(str(value))
                except argparse.ArgumentTypeError as error:
                    raise RecipeError(f"{source}: {entry.name}: {error}") from None
        return cls(**settings)


class Session(NamedTuple):
    """One recording session of one speaker: a row of speakers.tsv with its clips from manifest.tsv."""

    speaker: str
    gender: str
    language: str
    package: str
    split: str
    clips: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Unique name: speaker and language."""
        return f"{self.speaker}-{self.language}"


class Utterance(NamedTuple):
    """A written utterance."""

    key: str
    speaker: str
    session: str
    package: str
    path: str
    duration_s: float


class BuiltSpeaker(NamedTuple):
    """What became of the clips of one speaker."""

    utterances: list[Utterance]
    bad: list[BadAudio]


def prepare(args: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Stage 1 for ``kind: mini``; skipped when neither options nor tables changed.

    Args:
        args: the options of :func:`add_arguments`, and ``corpus``, ``data`` and ``num_workers``.
        settings: the recipe's ``corpus.yaml``, whose values are already the defaults of the options.

    Raises:
        RecipeError: as :func:`build_mini`.
    """
    recipe = MiniRecipe.from_settings(settings, args.corpus / "corpus.yaml")
    packages = choose_packages(read_packages(args.corpus / "packages.tsv"), args.packages, args.without_tuxpaint)
    overrides = {name: getattr(args, name) for name in ("max_utterances_per_speaker", "num_babble", "num_rooms")}
    chosen = dataclasses.replace(recipe, **overrides)
    if packages is not None or chosen != recipe:
        chosen = dataclasses.replace(chosen, expected={})
    marker = _done_marker(args, chosen, packages)
    if not begin(marker, "prepare", others=_others(args.data)):
        return
    build_mini(
        args.data,
        args.downloads,
        chosen,
        recipe_dir=args.corpus,
        packages=packages,
        deb_dir=args.deb_dir,
        num_workers=args.num_workers,
    )
    finish(marker)


def _done_marker(args: argparse.Namespace, recipe: MiniRecipe, packages: Sequence[str] | None) -> DoneMarker:
    """What the prepared data depend on. Downloads may be deleted afterwards."""
    inputs = [
        [content_stamp(args.corpus / name) for name in TABLES],
        dataclasses.asdict(dataclasses.replace(recipe, expected={})),
        packages,
        [file_stamp(deb) for deb in sorted(args.deb_dir.glob("*.deb"))] if args.deb_dir else None,
    ]
    outputs = [*prepared_files(args.data), args.data / "audio.sha256"]
    return DoneMarker(args.data / ".done" / "prepare", inputs, outputs, version=VERSION)


def _others(data_dir: Path) -> list[Path]:
    """All that :func:`build_mini` writes, beside the marker's outputs."""
    sets = [data_dir / name for name in (*SETS, "noise", "rirs")]
    tables = [table for path in sets for table in (*DataDir.tables(path), path / "utt2package")]
    return [*tables, *_lists(data_dir), data_dir / "wav", data_dir / "bad_audio.tsv"]


def _lists(data_dir: Path) -> list[Path]:
    return [data_dir / "trials" / name for name in (*HEADLINES, "cross_session", "valid")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this corpus for ``wespeaker-qm prepare``; numbers default to the recipe's ``corpus.yaml``."""
    group = parser.add_argument_group("corpus mini")
    group.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads/mini"),
        help="downloaded packages, kept between runs (default %(default)s)",
    )
    group.add_argument("--deb_dir", type=Path, help="folder of ready .deb files: nothing is downloaded")
    group.add_argument(
        "--without_tuxpaint", action="store_true", help="save 161 of 516 MB of download, lose 13 of 69 speakers"
    )
    group.add_argument("--packages", metavar="NAME,NAME", help="only these packages, e.g. klettres-data (40 MB)")
    group.add_argument("--max_utterances_per_speaker", type=COUNT, metavar="N", help="default %(default)s")
    group.add_argument("--num_babble", type=COUNT_OR_NONE, metavar="N", help="mixtures of voices (default %(default)s)")
    group.add_argument("--num_rooms", type=COUNT, metavar="N", help="simulated rooms (default %(default)s)")


def choose_packages(pinned: Mapping[str, Package], names: str | None, without_tuxpaint: bool) -> list[str] | None:
    """Names of the packages to use, None for all.

    Raises:
        RecipeError: an unknown name, with the nearest known ones.
    """
    if names is None and not without_tuxpaint:
        return None
    wanted = list(pinned) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in pinned:
            nearest = ", ".join(get_close_matches(name, pinned, 3, 0))
            raise RecipeError(f"--packages: {name!r} is none of the recipe's packages.tsv; nearest: {nearest}")
    return [name for name in pinned if name in wanted and not (without_tuxpaint and name == TUXPAINT)]


def build_mini(
    data_dir: Path,
    downloads: Path,
    recipe: MiniRecipe,
    *,
    recipe_dir: Path = Path("egs/mini"),
    packages: Sequence[str] | None = None,
    deb_dir: Path | None = None,
    num_workers: int = 2,
) -> CorpusInfo:
    """Download, unpack and build everything; ``data_dir/corpus.yaml`` is written last.

    Args:
        data_dir: e.g. ``data/mini``; its sets are made anew.
        downloads: folder of the packages, kept between runs.
        recipe: the settings.
        recipe_dir: holds the tables, ``egs/mini``.
        packages: use only these packages; default all. What the others hold (speakers, noises) is left out.
        deb_dir: folder of ready ``.deb`` files, instead of downloading.
        num_workers: processes; the result does not depend on them.

    Raises:
        RecipeError: packages cannot be had or lack files, or too few speakers remain.
    """
    pinned = read_packages(recipe_dir / "packages.tsv")
    chosen = [package for name, package in pinned.items() if packages is None or name in packages]
    roots = unpack_packages(chosen, downloads, deb_dir)
    sessions = read_sessions(recipe_dir, roots)
    members = split_sessions(sessions, recipe.validation_speakers)

    (data_dir / "corpus.yaml").unlink(missing_ok=True)
    earlier = _checked_audio(data_dir)
    utterances = build_utterances(data_dir, members, recipe, num_workers)
    directories = {name: write_set(data_dir / name, made, sessions) for name, made in utterances.items() if made}
    check_counts(recipe, directories)
    lists = write_trial_lists(data_dir, directories, utterances)
    noise_clips = read_noise_clips(recipe_dir, roots)
    train, rate, seed = directories["train"], recipe.sample_rate, recipe.seed
    noise = build_noise_set(data_dir, noise_clips, train, num_babble=recipe.num_babble, sample_rate=rate, seed=seed)
    rirs = build_rirs(data_dir, recipe.num_rooms, sample_rate=rate, seed=seed)
    write_checksums(data_dir, [*directories.values(), noise, rirs])
    for path in earlier - _checked_audio(data_dir):
        path.unlink(missing_ok=True)
    info = CorpusInfo(
        name=recipe.name,
        description=recipe.description,
        caveat=recipe.caveat,
        trials={name: "eval" for name in lists},
        headline=next(name for name in HEADLINES if name in lists),
        validation="valid" if "valid" in directories else None,
        noise="noise",
        rirs="rirs",
    )
    info.save(data_dir / "corpus.yaml")
    return info


def read_sessions(recipe_dir: Path, roots: Mapping[str, Path]) -> list[Session]:
    """Sessions of the unpacked packages, as the tables name them, in the tables' order.

    Rows that were dropped for want of speech, and merges of two sessions into one speaker that are marked LOW in
    confidence, are left out.

    Args:
        recipe_dir: holds speakers.tsv and manifest.tsv.
        roots: package -> folder that it was unpacked to.

    Raises:
        RecipeError: fewer than 95 % of a package's files are there.
    """
    clips: dict[tuple[str, str], list[Path]] = {}
    listed: dict[str, int] = {}
    for speaker, package, root, path in _read_manifest(recipe_dir / "manifest.tsv"):
        if package in roots:
            listed[package] = listed.get(package, 0) + 1
            clip = roots[package] / root / path
            if clip.is_file():
                clips.setdefault((speaker, package), []).append(clip)
    for package, num_listed in listed.items():
        present = sum(len(paths) for (_, name), paths in clips.items() if name == package)
        if present < MIN_PRESENT * num_listed:
            raise RecipeError(
                f"{roots[package]}: only {present} of the {num_listed} files of {recipe_dir / 'manifest.tsv'}, "
                f"expected at least {MIN_PRESENT:.0%}: this version of {package} differs too much; leave it out "
                "(--packages) or provide the pinned version of packages.tsv with --deb_dir"
            )
        if present < num_listed:
            logger.warning("%s: %d of %d listed files are missing", package, num_listed - present, num_listed)
    sessions = []
    columns = ("spk", "gender", "language", "package", "split", "label_confidence")
    for row in read_tsv(recipe_dir / "speakers.tsv", columns):
        usable = row["split"] in ("train", "eval") and not row["label_confidence"].startswith("LOW")
        paths = clips.get((row["spk"], row["package"]), [])
        if usable and paths:
            gender = GENDERS[row["gender"]]
            # Sorted by code point, whatever the locale: the order in which clips are joined.
            ordered = tuple(sorted(paths, key=lambda path: path.as_posix()))
            sessions.append(Session(row["spk"], gender, row["language"], row["package"], row["split"], ordered))
    return sessions


def split_sessions(sessions: Sequence[Session], validation_speakers: Sequence[str]) -> dict[str, list[Session]]:
    """Divide sessions into train, valid and eval.

    Raises:
        RecipeError: fewer than two speakers to train on or to evaluate, or a validation speaker is one for evaluation.
    """
    members: dict[str, list[Session]] = {name: [] for name in SETS}
    for session in sessions:
        is_valid = session.speaker in validation_speakers
        if is_valid and session.split != "train":
            raise RecipeError(f"corpus.yaml: validation speaker {session.speaker!r} is an evaluation speaker")
        members["valid" if is_valid else session.split].append(session)
    for name in ("train", "eval"):
        speakers = {session.speaker for session in members[name]}
        if len(speakers) < 2:
            raise RecipeError(
                f"the chosen packages hold {len(speakers)} speaker(s) for {name}, expected at least 2; add packages to "
                "--packages (klettres-data alone is enough)"
            )
    if len({session.speaker for session in members["valid"]}) < 2:
        members["valid"] = []
    return members


def build_utterances(
    data_dir: Path, members: Mapping[str, Sequence[Session]], recipe: MiniRecipe, num_workers: int
) -> dict[str, list[Utterance]]:
    """Write all utterances to ``data_dir/wav/<set>/<speaker>/``, each speaker in one of ``num_workers`` processes.

    Raises:
        RecipeError: more than 5 % of the clips hold no sound or cannot be read; they are listed in ``bad_audio.tsv``.
    """
    jobs = []
    for name, sessions in members.items():
        for speaker in sorted({session.speaker for session in sessions}):
            own = [session for session in sessions if session.speaker == speaker]
            jobs.append((name, data_dir / "wav" / name / speaker, own))
    # The longest first, so that no worker is left with much to do at the end.
    jobs.sort(key=lambda job: (-sum(len(session.clips) for session in job[2]), job[1]))
    build = partial(_build_speaker, recipe=recipe)
    built = ordered_map(build, [(folder, own) for _, folder, own in jobs], num_workers)
    utterances: dict[str, list[Utterance]] = {name: [] for name in members}
    bad: list[BadAudio] = []
    for (name, _, own), made in tqdm(zip(jobs, built, strict=True), total=len(jobs), desc="speakers"):
        bad += made.bad
        if len(made.utterances) < MIN_UTTERANCES:
            logger.warning("%s: %d utterance(s), left out", own[0].speaker, len(made.utterances))
            continue
        utterances[name] += made.utterances
    num_clips = sum(len(session.clips) for _, _, own in jobs for session in own)
    refuse_bad_audio(bad, num_clips, MAX_BAD_CLIPS, data_dir / "bad_audio.tsv")
    return utterances


def _build_speaker(job: tuple[Path, list[Session]], recipe: MiniRecipe) -> BuiltSpeaker:
    """Find the sounds in the clips of one speaker, plan utterances, choose among them and write those."""
    folder, sessions = job
    plans, bad = [], []
    for session in sessions:
        sounds: list[Piece] = []
        for clip, path in enumerate(session.clips):
            try:
                pieces = sound_pieces(clip, *_read_clip(session.clips, clip))
                reason = "" if pieces else "no sound above -60 dB of full scale, or shorter than 0.1 s"
            except AudioError as error:
                pieces, reason = [], str(error)
            sounds += pieces
            if reason:
                bad.append(BadAudio(session.name, str(path), reason))
        plans.append(plan_utterances(sounds, recipe.min_utterance_s, recipe.max_utterance_s))
    most = recipe.max_eval_utterances_per_session if sessions[0].split == "eval" else recipe.max_utterances_per_speaker
    shares = share_out([min(len(plan), most) for plan in plans], recipe.max_utterances_per_speaker)
    utterances = []
    for session, plan, share in zip(sessions, plans, shares, strict=True):
        for index in choose_evenly(len(plan), share):
            key = f"{session.name}-{index:04d}"
            path = folder / f"{key}.wav"
            waveform = join_pieces(plan[index], partial(_read_clip, session.clips), recipe.sample_rate)
            write_wav(path, waveform, recipe.sample_rate)
            duration_s = len(waveform) / recipe.sample_rate
            utterances.append(Utterance(key, session.speaker, session.name, session.package, str(path), duration_s))
    return BuiltSpeaker(utterances, bad)


def _read_clip(clips: Sequence[Path], index: int) -> tuple[np.ndarray, int]:
    return read_audio(clips[index], raw_format=RAW_FORMATS.get(clips[index].suffix))


def write_set(path: Path, utterances: Sequence[Utterance], sessions: Sequence[Session]) -> DataDir:
    """Write a Kaldi directory with ``spk2gender``, ``utt2session`` and ``utt2package``."""
    speakers = {utterance.speaker for utterance in utterances}
    directory = DataDir(
        wav={utterance.key: utterance.path for utterance in utterances},
        speaker={utterance.key: utterance.speaker for utterance in utterances},
        duration_s={utterance.key: utterance.duration_s for utterance in utterances},
        gender={session.speaker: session.gender for session in sessions if session.speaker in speakers},
        session={utterance.key: utterance.session for utterance in utterances},
    )
    directory.write(path)
    write_rows(path / "utt2package", sorted((utterance.key, utterance.package) for utterance in utterances))
    logger.info(
        "%s: %d speakers, %d utterances, %.2f h",
        path.name, len(directory.speakers), len(directory), sum(directory.duration_s.values()) / 3600,
    )  # fmt: skip
    return directory


def write_trial_lists(
    data_dir: Path, directories: Mapping[str, DataDir], utterances: Mapping[str, Sequence[Utterance]]
) -> dict[str, list[Trial]]:
    """Write the evaluation lists and ``valid``; a list without both target and non-target trials is left out.

    All lists but ``cross_session`` hold the same target trials: every pair of utterances of one speaker. They differ in
    their impostors: ``all``; of the ``same_gender`` (a speaker of unknown gender is nobody's impostor there); of the
    ``same_package_gender``, which is the headline, because there the channel tells little. In ``cross_session`` the
    targets come from two sessions of a speaker, the impostors from speakers of the same gender.

    Returns:
        evaluation list -> its trials.
    """
    directory = directories["eval"]
    package = {utterance.key: utterance.package for utterance in utterances["eval"]}

    def same_speaker(a: str, b: str) -> bool:
        return directory.speaker[a] == directory.speaker[b]

    def across_sessions(a: str, b: str) -> bool:
        if same_speaker(a, b):
            return directory.session[a] != directory.session[b]
        return _same_gender(directory, a, b)

    rules: dict[str, Callable[[str, str], bool] | None] = {
        "same_package_gender": lambda a, b: (
            same_speaker(a, b) or (package[a] == package[b] and _same_gender(directory, a, b))
        ),
        "same_gender": lambda a, b: same_speaker(a, b) or _same_gender(directory, a, b),
        "all": None,
        "cross_session": across_sessions,
    }
    for path in _lists(data_dir):
        path.unlink(missing_ok=True)
    lists = {}
    for name, rule in rules.items():
        trials = make_trials(directory.speaker, accept=rule)
        if {trial.is_target for trial in trials} == {True, False}:
            lists[name] = trials
            _write_list(data_dir, name, trials)
        else:
            logger.info("trials %s: left out, the chosen packages hold no such targets and impostors", name)
    if "valid" in directories:
        valid = directories["valid"]
        trials = make_trials(
            valid.speaker, accept=lambda a, b: valid.speaker[a] == valid.speaker[b] or _same_gender(valid, a, b)
        )
        _write_list(data_dir, "valid", trials)
    return lists


def _same_gender(directory: DataDir, a: str, b: str) -> bool:
    gender = directory.gender[directory.speaker[a]]
    return gender != UNKNOWN_GENDER and gender == directory.gender[directory.speaker[b]]


def _write_list(data_dir: Path, name: str, trials: Sequence[Trial]) -> None:
    write_trials(data_dir / "trials" / name, trials)
    num_targets = sum(trial.is_target for trial in trials)
    logger.info("trials %s: %d targets, %d non-targets", name, num_targets, len(trials) - num_targets)


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


def write_checksums(data_dir: Path, sets: Sequence[DataDir]) -> None:
    """Write ``audio.sha256`` (as sha256sum does, paths below ``data_dir``): equal files mean equal audio."""
    paths = sorted((Path(path) for each in sets for path in each.wav.values()), key=lambda path: path.as_posix())
    lines = [f"{sha256_of(path)}  {path.relative_to(data_dir).as_posix()}\n" for path in paths]
    write_text(data_dir / "audio.sha256", "".join(lines))


def _checked_audio(data_dir: Path) -> set[Path]:
    """The files that ``audio.sha256`` names: those, and no others, were made here."""
    path = data_dir / "audio.sha256"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {data_dir / line.partition("  ")[2] for line in lines}


def check_counts(recipe: MiniRecipe, directories: Mapping[str, DataDir]) -> None:
    """Warn where speakers and utterances are not those that the recipe states."""
    for name, expected in recipe.expected.items():
        found = [len(directories[name].speakers), len(directories[name])]
        if found != expected:
            logger.warning("%s: %s speakers and utterances, expected %s (egs/mini/corpus.yaml)", name, found, expected)


def _read_manifest(path: Path) -> list[list[str]]:
    """Rows speaker, package, root, path; the path may hold spaces."""
    return read_rows(path, 4)
