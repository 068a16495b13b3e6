"""Is a prepared corpus whole? Tables, packed audio and trial lists, each by itself and against the others."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.corpus.datadir import DURATION_TOLERANCE_S, DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.verification import PackedSet, PackedTar, packed_set, packed_tars
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.utils.done import refuse_no_marker
from wespeaker_qm.utils.errors import counted, shown
from wespeaker_qm.utils.layout import DataFolder, SetFolder
from wespeaker_qm.utils.ownership import LEDGER, refuse_no_ledger
from wespeaker_qm.utils.tables import read_rows
from wespeaker_qm.utils.text import fields_of
from wespeaker_qm.utils.trouble import UNREADABLE, told

_PREPARE = "prepare the data again (run.sh --stage 1)"
_PACK = "pack again (run.sh --stage 2)"


class _Set(NamedTuple):
    """A set as far as it can be read."""

    folder: SetFolder
    tables: DataDir | None
    packed: PackedSet | None


def trial_lists(corpora: Sequence[DataFolder]) -> dict[str, Path]:
    """Name -> file of the trial lists of corpora, those of the validation among them.

    None of a corpus that cannot be read, nor of a name that several have: nobody knows which of them is meant.
    """
    found: dict[str, list[Path]] = {}
    for data in corpora:
        try:
            corpus = CorpusInfo.load(data.info)
        except UNREADABLE:
            continue
        for name in [*corpus.trials, *([corpus.validation] if corpus.validation is not None else [])]:
            found.setdefault(name, []).append(data.trials(name))
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}


def data_findings(data: DataFolder) -> tuple[list[PackedTar], list[str]]:
    """The tars of a corpus, whose audio is to be verified, and what is wrong with all that says something of it."""
    findings: list[str] = []
    try:
        corpus = CorpusInfo.load(data.info)
    except UNREADABLE as error:
        return [], [told(error)]
    tars: list[PackedTar] = []
    sets = {name: _read_set(data.set(name), tars, findings) for name in corpus.sets()}
    for each in sets.values():
        findings += _contradictions(each)
        findings += _with_unreadable(_lost_rows(each))
    findings += _with_unreadable(_damaged_records(data, [data.set(name) for name in corpus.sets()]))
    lists = {**corpus.trials, **({corpus.validation: corpus.validation} if corpus.validation is not None else {})}
    for name, set_name in lists.items():
        findings += _list_findings(data.trials(name), sets[set_name])
    if corpus.train is not None:
        tested = {name: sets[name] for name in dict.fromkeys(lists.values()) if name != corpus.train}
        findings += _overlap(sets[corpus.train], tested)
    return tars, findings


def _with_unreadable(lines: Iterator[str]) -> Iterator[str]:
    """These, and what could not be read for them."""
    try:
        yield from lines
    except UNREADABLE as error:
        yield told(error)


def _read_set(folder: SetFolder, tars: list[PackedTar], findings: list[str]) -> _Set:
    """Read a set; its tars and faults go to the lists."""
    tables = packed = None
    try:
        tables = DataDir.read(folder.path)
    except UNREADABLE as error:
        findings.append(told(error))
    try:
        own, faults = packed_tars(folder.shard_list)
        tars += own
        findings += _of_the_original(folder, [packed.tar for packed in own])
        findings += faults
        packed = packed_set(own)
    except UNREADABLE as error:
        findings.append(told(error))
    return _Set(folder, tables, packed)


def _of_the_original(folder: SetFolder, tars: list[Path]) -> list[str]:
    """Where a list names tars elsewhere, while ones of their names lie here: a copy, of which nothing would be read."""
    elsewhere = [tar for tar in tars if (folder.shards / tar.name).is_file() and tar.is_file()]
    elsewhere = [tar for tar in elsewhere if not tar.samefile(folder.shards / tar.name)]
    if not elsewhere:
        return []
    own = folder.shards / elsewhere[0].name
    return [
        f"{folder.shard_list}: names {elsewhere[0]}, expected {own}, which lies beside it: a copy whose lists name the "
        f"original; put it where its path from the current directory is what that of the original was, or {_PACK}"
    ]


def _contradictions(each: _Set) -> list[str]:
    """Where the tables and the packed audio of a set disagree."""
    if each.tables is None or each.packed is None:
        return []
    expected, found = each.tables.speaker, each.packed.speaker
    lacking = [key for key in expected if key not in found and key not in each.packed.left_out]
    extra = [key for key in found if key not in expected]
    other = [key for key in found if expected.get(key, found[key]) != found[key]]
    path, table = each.folder.shard_list, each.folder.utt2spk
    lines = []
    if lacking:
        lines.append(
            f"{path}: lacks {len(lacking)} of the {len(expected)} recordings of {table}, which are not "
            f"among those that were left out either, e.g. {shown(lacking[0])}; {_PACK}"
        )
    if extra:
        lines.append(
            f"{path}: {counted(len(extra), 'packed recording is', 'packed recordings are')} not in {table}, e.g. "
            f"{shown(extra[0])}; {_PACK}"
        )
    if other:
        key = other[0]
        lines.append(
            f"{path}: {counted(len(other), 'packed recording is', 'packed recordings are')} of another speaker than in "
            f"{table}, e.g. {shown(key)}: of {shown(found[key])}, expected {shown(expected[key])}; {_PACK}"
        )
    return [*lines, *_other_durations(each.folder, each.tables.duration_s, each.packed.duration_s)]


def _lost_rows(each: _Set) -> Iterator[str]:
    """Optional tables without a row, which readers take for what nobody knows, and rows that ``spk2utt`` lacks."""
    remedy = "correct it, or remove the table, which is optional"
    for path in DataDir.tables(each.folder.path):
        if path.is_file() and not path.stat().st_size and path not in (each.folder.wav_scp, each.folder.utt2spk):
            yield f"{path}: found an empty file, expected a row for each of what {each.folder.utt2spk} names; {remedy}"
    path = each.folder.spk2utt
    if each.tables is None or not path.is_file() or not path.stat().st_size:
        return
    listed = {key for _, keys in read_rows(path, 2) for key in fields_of(keys)}
    lacking = [key for key in each.tables.speaker if key not in listed]
    if lacking:
        yield (
            f"{path}: lacks {len(lacking)} of the {len(each.tables.speaker)} utterances of {each.folder.utt2spk}, e.g. "
            f"{shown(lacking[0])}; {remedy}"
        )


def _other_durations(folder: SetFolder, told_s: Mapping[str, float], packed_s: Mapping[str, float]) -> Iterator[str]:
    """Where ``utt2dur`` says another length than that of the packed audio; it is written in six digits."""
    pairs = {key: (told_s[key], packed_s[key]) for key in told_s if key in packed_s}
    other = [key for key, (one, two) in pairs.items() if abs(one - two) > DURATION_TOLERANCE_S + 1e-5 * two]
    if other:
        found, expected = pairs[other[0]]
        of = f"of {len(told_s)} recordings"
        yield (
            f"{folder.utt2dur}: {counted(len(other), f'{of} is', f'{of} are')} of another length than what is packed, "
            f"e.g. {shown(other[0])}: {found:g} s, expected {expected:g} s; correct it, or remove the table, which "
            "only reports read"
        )


def _damaged_records(data: DataFolder, sets: Sequence[SetFolder]) -> Iterator[str]:
    """What stages have noted of their work, beside what :func:`tar_findings` reads: ends, and files that are theirs."""
    place = data.marker("prepare").parent
    markers = [path for path in sorted(place.iterdir()) if path.name[0] != "."] if place.is_dir() else []
    checks = [functools.partial(refuse_no_marker, path, f"remove it and {_PREPARE}") for path in markers]
    ledgers = [folder / LEDGER for each in sets for folder in (each.path, each.shards)]
    checks += [functools.partial(refuse_no_ledger, path) for path in (data.path / LEDGER, *ledgers) if path.is_file()]
    for check in checks:
        try:
            check()
        except UNREADABLE as error:
            yield told(error)


def _list_findings(path: Path, drawn_from: _Set) -> list[str]:
    """What is wrong with a trial list, by itself and beside the set that it draws from."""
    try:
        trials = read_trial_table(path)
        if drawn_from.tables is not None:
            trial_speakers(trials, drawn_from.tables.speaker)
    except UNREADABLE as error:
        return [told(error)]
    if drawn_from.packed is None:
        return []
    lacking = [name for name in trials.utterances if name not in drawn_from.packed.speaker]
    if not lacking:
        return []
    of = f"of its {len(trials.utterances)} utterances"
    return [
        f"{path}: {counted(len(lacking), f'{of} is', f'{of} are')} not packed, "
        f"e.g. {shown(lacking[0])}, expected all of them in {drawn_from.folder.shard_list}; {_PACK}, or {_PREPARE}"
    ]


def _overlap(train: _Set, tested: Mapping[str, _Set]) -> list[str]:
    """Speakers, and recordings under whatever names, that are trained on and tested."""
    lines = []
    for each in tested.values():
        if train.tables is not None and each.tables is not None:
            speakers = set(each.tables.speakers)
            known = sorted(speakers & set(train.tables.speakers))
            if known:
                of = f"of its {len(speakers)} speakers"
                lines.append(
                    f"{each.folder.utt2spk}: {counted(len(known), f'{of} is', f'{of} are')} trained on "
                    f"({train.folder.utt2spk}), e.g. {shown(known[0])}, expected none: figures would be too good; "
                    f"leave them out of one of the two, or {_PREPARE}"
                )
        if train.packed is not None and each.packed is not None:
            both = sorted(each.packed.audio.keys() & train.packed.audio.keys())
            if both:
                key = both[0]
                lines.append(
                    f"{each.folder.shard_list}: {counted(len(both), 'of its recordings is', 'of its recordings are')} "
                    f"trained on under whatever name, e.g. {shown(each.packed.audio[key])}, which is "
                    f"{shown(train.packed.audio[key])} of {train.folder.shard_list}; expected none: "
                    f"leave them out of one of the two, or {_PREPARE}"
                )
    return lines
