#!/usr/bin/env python3
"""Make a miniature VoxCeleb from a prepared corpus: the official archives, names and lists, with a few real voices.

    tools/make_miniature_voxceleb.py --data data/mini --out downloads/miniature
    ./run.sh --corpus egs/voxceleb --vox_root downloads/miniature --data data/miniature

The recipe for VoxCeleb so runs on a machine that has no VoxCeleb. Training speakers become VoxCeleb2 dev (AAC at
64 kbit/s in M4A, in a zip archive cut into parts), evaluation speakers VoxCeleb1 (WAV), noises MUSAN, impulse responses
RIRS_NOISES.
"""

import argparse
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from wespeaker_qm.audio.io import read_audio_at
from wespeaker_qm.corpora.voxceleb.prepare import SUBSET_FILE
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.format import encode_pcm16, to_pcm16
from wespeaker_qm.trials.lists import make_trials
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.files import atomic_path, write_text
from wespeaker_qm.utils.ownership import take_folder
from wespeaker_qm.utils.progress import Progress

SAMPLE_RATE = 16000
AAC_BITS_PER_S = 64_000
# VoxCeleb2 speakers are id00012 to id09272, those of VoxCeleb1 id10001 to id11251; these make the test part of it.
VOX1_TEST_IDS = range(10270, 10310)
NUM_PARTS = {"vox2_dev_aac": 8, "vox1_dev_wav": 4}

Files = Iterable[tuple[str, bytes]]


def main() -> None:
    """Write the archives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/mini"), help="a prepared corpus (stage 1)")
    parser.add_argument("--out", type=Path, default=Path("downloads/miniature"))
    parser.add_argument("--utterances", type=COUNT, default=1000, help="at most so many of each speaker")
    args = parser.parse_args()
    make_miniature(args.data, args.out, args.utterances)


def make_miniature(data: Path, out: Path, max_utterances: int) -> None:
    """Write parts, zip and tar archives, trial lists and the file that calls all this a subset to ``out``."""
    corpus = CorpusInfo.load(data)
    train = DataDir.read(data / corpus.train)
    evaluation = DataDir.read(data / corpus.trials[corpus.headline])
    subset = out / SUBSET_FILE
    take_folder(out, made_before=subset.is_file() and subset.read_text(encoding="utf-8").startswith("made from "))
    train_names = _vox_names(train, 12, max_utterances)
    _write_parts(out, "vox2_dev_aac", _files(train, train_names, "dev/aac/", _m4a, ".m4a"))
    if corpus.validation is not None and corpus.validation != corpus.trials[corpus.headline]:
        valid = DataDir.read(data / corpus.validation)
        names = _vox_names(valid, 9000, max_utterances)
        _write_zip(out / "vox2_test_aac.zip", _files(valid, names, "aac/", _m4a, ".m4a"))

    # Half of the speakers as in VoxCeleb1 test, which needs two for a list of its own, half as in VoxCeleb1 dev.
    num_test = max(2, len(evaluation.speakers) // 2)
    names = _vox_names(evaluation, VOX1_TEST_IDS.stop - num_test, max_utterances)
    in_test = {key: name for key, name in names.items() if int(name[2:7]) in VOX1_TEST_IDS}
    in_dev = {key: name for key, name in names.items() if key not in in_test}
    _write_zip(out / "vox1_test_wav.zip", _files(evaluation, in_test, "wav/", _wav, ".wav"))
    _write_parts(out, "vox1_dev_wav", _files(evaluation, in_dev, "wav/", _wav, ".wav"))
    _write_trials(out, evaluation, names, in_test)

    noise, rirs = DataDir.read(data / str(corpus.noise)), DataDir.read(data / str(corpus.rirs))
    _write_musan(out / "musan.tar.gz", noise)
    _write_zip(out / "rirs_noises.zip", _files(rirs, _rir_names(rirs), "RIRS_NOISES/simulated_rirs/", _wav, ".wav"))
    write_text(subset, f"made from {data}: {len(train.speakers) + len(evaluation.speakers)} speakers\n")


def _vox_names(data: DataDir, first_id: int, max_utterances: int) -> dict[str, str]:
    """Key -> ``id00012/<11 characters>/00001``: a video for every five utterances."""
    names = {}
    for number, speaker in enumerate(data.speakers):
        keys = sorted(key for key, other in data.speaker.items() if other == speaker)
        for index, key in enumerate(islice(keys, max_utterances)):
            names[key] = f"id{first_id + number:05d}/mini_{index // 5:06d}/{index % 5 + 1:05d}"
    return names


def _rir_names(rirs: DataDir) -> dict[str, str]:
    """Key -> ``smallroom/Room001/Room001-00001``: three sizes in turn, ten impulse responses a room."""
    names = {}
    for index, key in enumerate(sorted(rirs.wav)):
        size, place = ("smallroom", "mediumroom", "largeroom")[index % 3], index // 3
        room = f"Room{place // 10 + 1:03d}"
        names[key] = f"{size}/{room}/{room}-{place % 10 + 1:05d}"
    return names


def _files(data: DataDir, names: dict[str, str], prefix: str, encode, suffix: str) -> Iterator[tuple[str, bytes]]:  # type: ignore[no-untyped-def]
    for key, name in Progress(sorted(names.items(), key=lambda item: item[1]), desc=prefix):
        yield f"{prefix}{name}{suffix}", encode(read_audio_at(data.wav[key], SAMPLE_RATE))


def _wav(waveform: np.ndarray) -> bytes:
    return encode_pcm16(to_pcm16(waveform), SAMPLE_RATE, "wav")


def _m4a(waveform: np.ndarray) -> bytes:
    """AAC-LC in an MP4 container, as VoxCeleb2 is published."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = AAC_BITS_PER_S
        frame = av.AudioFrame.from_ndarray(to_pcm16(waveform)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def _write_zip(path: Path, files: Files) -> None:
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _write_parts(out: Path, stem: str, files: Files) -> None:
    """A zip archive cut into equal parts ``<stem>_partaa``, ``<stem>_partab``, ..."""
    joined = out / f".{stem}.zip"
    _write_zip(joined, files)
    content = joined.read_bytes()
    joined.unlink()
    size = -(-len(content) // NUM_PARTS[stem])
    for number in range(NUM_PARTS[stem]):
        (out / f"{stem}_parta{chr(97 + number)}").write_bytes(content[number * size : (number + 1) * size])


def _write_musan(path: Path, noise: DataDir) -> None:
    with atomic_path(path) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for index, (key, kind) in enumerate(sorted(noise.speaker.items())):
            content = _wav(read_audio_at(noise.wav[key], SAMPLE_RATE))
            entry = tarfile.TarInfo(f"musan/{kind}/mini/{kind}-mini-{index:04d}.wav")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _write_trials(out: Path, data: DataDir, names: dict[str, str], in_test: dict[str, str]) -> None:
    """The six lists: O over the test speakers, E over all, H within a gender; "cleaned" ones lack a few trials.

    H is E where no two speakers share a gender.
    """
    speaker = {f"{name}.wav": name.split("/")[0] for name in names.values()}
    test = {f"{name}.wav" for name in in_test.values()}
    gender = {f"{name}.wav": data.gender.get(data.speaker[key], "u") for key, name in names.items()}
    one_of_each = len(set(gender.values())) == len(set(speaker.values()))
    lists = {
        "veri_test": lambda one, two: one in test and two in test,
        "list_test_all": lambda one, two: True,
        "list_test_hard": lambda one, two: one_of_each or gender[one] == gender[two],
    }
    for name, accept in lists.items():
        trials = make_trials(speaker, accept=accept, max_targets=5_000, max_nontargets=20_000)
        lines = [f"{int(trial.is_target)} {trial.enrolment} {trial.test}\n" for trial in trials]
        write_text(out / f"{name}.txt", "".join(lines))
        write_text(out / f"{name}2.txt", "".join(line for number, line in enumerate(lines) if number % 100 != 50))


if __name__ == "__main__":
    main()
