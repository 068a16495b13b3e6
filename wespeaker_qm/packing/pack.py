"""Packing: audio files to shards (:mod:`wespeaker_qm.packing.format`), a shard at a time, resumed where it stopped."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from wespeaker_qm.corpus.bad_audio import SILENCE_PEAK_DB, BadAudio, is_too_much, refuse_bad_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.format import CODECS, bad_path, index_path, marker_path, read_shard_list
from wespeaker_qm.packing.index import write_index
from wespeaker_qm.packing.index_files import damaged_tars, index_is_current, index_paths, remove_index
from wespeaker_qm.packing.shard import (
    PackBar,
    PackOptions,
    Shard,
    add_checksums,
    bad_audio,
    encode,
    faults,
    index_rows,
    is_ours,
    plan_shards,
    write_shard,
)
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.files import remove_leftovers, write_text
from wespeaker_qm.utils.layout import SetFolder
from wespeaker_qm.utils.lock import lock_for_writing, unlock
from wespeaker_qm.utils.ownership import claim, refuse_foreign
from wespeaker_qm.utils.parallel import ordered_map

logger = logging.getLogger(__name__)


def pack_data_dir(
    data_dir: Path,
    *,
    sample_rate: int = 16000,
    codec: str = "wav",
    utterances_per_shard: int = 1000,
    shuffle: bool = True,
    seed: int = 42,
    num_workers: int = 1,
    min_duration_s: float = 0.0,
    silence_peak_db: float = SILENCE_PEAK_DB,
    max_bad_fraction: float = 0.0,
) -> None:
    """Pack a Kaldi data directory into shards: ``<data_dir>/shards/`` and, last of all, ``<data_dir>/shard.list``.

    The bytes written depend on the audio and the options only, never on the number of workers. A shard that is complete
    and whose inputs have not changed is kept, so an interrupted run continues where it stopped.

    Args:
        data_dir: holds ``wav.scp`` (paths, or locators in archives) and ``utt2spk``.
        sample_rate: all audio is brought to this rate, in Hz, and to one channel.
        codec: ``wav`` (16-bit PCM) or ``flac`` (16 bit).
        utterances_per_shard: recordings a tar, before bad ones are left out.
        shuffle: draw the order from ``seed`` (training; WeSpeaker's ``--shuffle``), else that of the sorted keys.
        seed: of the shuffled order.
        num_workers: processes that decode.
        min_duration_s: shorter recordings are bad audio.
        silence_peak_db: and so are those whose peak is below this level; minus infinity allows all but zeros.
        max_bad_fraction: largest fraction of bad recordings that are left out; more is an error.

    Raises:
        RecipeError: inconsistent data directory, a command in ``wav.scp``, or too much bad audio, which is then listed
            in ``<data_dir>/bad_audio.tsv``.
    """
    folder = SetFolder(data_dir)
    if codec not in CODECS:
        raise RecipeError(f"codec {codec!r} is not known; expected one of {', '.join(CODECS)}")
    data = DataDir.read(folder.path)
    options = PackOptions(sample_rate, codec, min_duration_s, silence_peak_db)
    shards = plan_shards(folder, data, utterances_per_shard, seed if shuffle else None, options)
    if not _is_packed(folder, shards, max_bad_fraction):
        _refuse(folder, shards)
        is_alone = lock_for_writing(folder.path)
        try:
            for place in (folder.path, folder.shards, folder.shards / ".done"):
                remove_leftovers(place, is_alone=is_alone)
            if not _is_packed(folder, shards, max_bad_fraction):  # another process may have done it meanwhile
                _pack(folder, shards, options, num_workers, max_bad_fraction)
                return
        finally:
            unlock(folder.path, writer=True)
    logger.info(
        "stage pack: %s: nothing changed since the last run, skipped (delete %s to force)",
        folder.path.name,
        folder.shards,
    )


def _is_packed(folder: SetFolder, shards: Sequence[Shard], max_bad_fraction: float) -> bool:
    """Whether all is there, and the limit of bad audio, which may be stricter this time, is kept."""
    shard_list = folder.shard_list
    if not shard_list.is_file() or shard_list.read_bytes() != _list_text(shards).encode():
        return False
    if not all(shard.marker.is_current() for shard in shards):
        return False
    if not index_is_current(shard_list, [shard.tar for shard in shards]):
        return False
    num_files = sum(len(shard.sources) for shard in shards)
    return not is_too_much(len(bad_audio(shards)), num_files, max_bad_fraction)


def _pack(
    folder: SetFolder, shards: Sequence[Shard], options: PackOptions, num_workers: int, max_bad_fraction: float
) -> None:
    shard_list = folder.shard_list
    damaged = damaged_tars(shard_list)
    pending = [shard for shard in shards if shard.tar in damaged or not shard.marker.is_current()]
    complete = [shard for shard in shards if shard not in pending]
    num_files = sum(len(shard.sources) for shard in shards)
    num_gone = sum(source.is_gone for shard in shards for source in shard.sources)
    for place, paths, was_packed in _outputs(folder, shards):
        claim(place, paths, made_before=was_packed)
    shard_list.unlink(missing_ok=True)
    remove_index(shard_list)
    add_checksums(complete)
    if complete:
        of = f"of {len(shards)} shards"
        logger.info("%s: %s complete and kept", folder, counted(len(complete), f"{of} is", f"{of} are"))
    encoded = ordered_map(
        partial(encode, options=options), (source for shard in pending for source in shard.sources), num_workers
    )
    # What was packed of recordings that are gone may be their only copy: then it is not replaced, only judged.
    is_refused = is_too_much(num_gone, num_files, max_bad_fraction)
    bad: list[BadAudio] = []
    with PackBar(folder.path.name, sum(len(shard.sources) for shard in pending)) as bar:
        for shard in pending:
            if is_refused:
                bad += faults(shard, encoded, bar)
            else:
                write_shard(shard, encoded, options, bar)
    bad += bad_audio(complete if is_refused else shards)
    refuse_bad_audio(bad, num_files, max_bad_fraction, folder.bad_audio, options="--pack_opts")
    _remove_strays(folder.shards, shards)
    write_index(shard_list, ((shard.tar, index_rows(shard)) for shard in shards))
    write_text(shard_list, _list_text(shards))
    num_packed = counted(num_files - len(bad), "recording", "recordings")
    logger.info("%s: packed %s into %s", folder, num_packed, counted(len(shards), "shard", "shards"))


def _refuse(folder: SetFolder, shards: Sequence[Shard]) -> None:
    """Refuse to pack what is not there, or over what another program has packed, before anything is touched."""
    sources = [source for shard in shards for source in shard.sources]
    if all(source.is_gone for source in sources):
        raise RecipeError(
            f"{folder.wav_scp}: none of the {len(sources)} recordings is there, e.g. {sources[0].path}; nothing has "
            "been touched, and what is packed already can be used (leave stage 2 out). Put the audio back to pack it"
        )
    shard_list = folder.shard_list
    listed = read_shard_list(shard_list) if shard_list.is_file() else []
    foreign = [tar for tar in listed if tar.exists() and not is_ours(tar)]
    if foreign:
        raise RecipeError(
            f"{shard_list}: {len(foreign)} of its {len(listed)} tars, e.g. {foreign[0]}, were packed by another "
            "program; nothing has been touched. Training and extraction read this list as it is (leave stage 2 out); "
            f"to pack {folder.wav_scp} instead, move {shard_list.name} away first"
        )
    for place, paths, was_packed in _outputs(folder, shards):
        refuse_foreign(place, paths, made_before=was_packed)


def _outputs(folder: SetFolder, shards: Sequence[Shard]) -> Iterator[tuple[Path, list[Path], bool]]:
    """What packing writes, by folder, and whether it is known to have made what lies there."""
    shard_list = folder.shard_list
    was_packed = any(is_ours(shard.tar) for shard in shards)
    yield folder.path, [shard_list, *index_paths(shard_list), folder.bad_audio], was_packed
    for is_known in (False, True):
        paths = [path for shard in shards if is_ours(shard.tar) == is_known for path in shard.marker.outputs]
        yield folder.shards, paths, is_known


def _list_text(shards: Sequence[Shard]) -> str:
    return "".join(f"{shard.tar}\n" for shard in shards)


def _remove_strays(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what a packing into more shards left behind: nobody would ever read it."""
    stems = {shard.tar.stem for shard in shards}
    for tar in folder.glob("shards_*.tar"):
        if tar.stem not in stems and is_ours(tar):
            for path in (tar, index_path(tar), bad_path(tar), marker_path(tar)):
                path.unlink(missing_ok=True)
