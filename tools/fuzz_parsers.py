"""Every parser of the project, with valid files to begin with: what `tools/fuzz.py` and the tests damage.

A new reader of files gets a row of :data:`PARSERS`. Checksums beside a file, and digests in it, are made to fit what
stands there before it is read: they protect against accidents, not against somebody who wants to deceive.
"""

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import kaldiio
import numpy as np
import soundfile
import torch

from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.config import load_config
from wespeaker_qm.corpora.debian import deb
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.corpora.folder.speaker_split import parse_eval_speakers
from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.settings import read_settings
from wespeaker_qm.corpora.voxceleb.files import _vox2_test_speakers
from wespeaker_qm.corpora.voxceleb.settings import VoxcelebSettings
from wespeaker_qm.corpora.voxceleb.trials import read_published_trials
from wespeaker_qm.corpus import archives
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.enrolment.records import Voice
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.evaluate.operating_points import roc_steps
from wespeaker_qm.export import files as model_files
from wespeaker_qm.export.contents import Evidence, FeatureCard, NetworkCard, ScoringCard
from wespeaker_qm.export.evidence import curve, histogram
from wespeaker_qm.export.folder import ModelFolder, fingerprint
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import encoder_named
from wespeaker_qm.packing import index_files
from wespeaker_qm.packing.format import CHECKSUM_MARK, read_shard_list
from wespeaker_qm.packing.index import ShardIndex
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.scan import audio_facts, scan_tar
from wespeaker_qm.packing.shard import Shard, index_rows
from wespeaker_qm.report.runs import read_metrics
from wespeaker_qm.report.training_history import read_training_history
from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.score.calibration_check import EerCheck
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.speaker.onnx_model import write_onnx_model
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.train.states import read_state
from wespeaker_qm.trials.lists import Trial, read_pairs, read_trial_table, write_trials
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import checksum_path, verify
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.ownership import made_by_stages
from wespeaker_qm.utils.tables import read_map, read_numbers, read_tsv, write_rows
from wespeaker_qm.utils.text import parse_json, read_names, read_text
from wespeaker_qm.utils.vectors import VectorTable, write_vectors
from wespeaker_qm.utils.yaml_files import dump_yaml, parse_yaml

NAMES = [f"id{number}-{number}" for number in range(8)]
RATE, DIM = 8000, 8
_MOST_BYTES = 1 << 26
"""Of a file that is given digests that fit it."""


class Parser(NamedTuple):
    """A reader of files of one kind."""

    file: str
    """Name of the file that is damaged."""
    write: Callable[[Path], Any]
    """Given the path of that file: makes a valid one, and what belongs to it."""
    read: Callable[[Path], Any]
    """Given the same."""
    again: Callable[[Any, Path], Any] | None = None
    """Writes what was read to a path of the same name in an empty folder: reading that gives the same."""
    leaves: bool = False
    """Whether reading leaves files in the folder: what was unpacked, the log of a database."""
    is_named: bool = True
    """Whether a refusal names the file; else the caller does."""


def _text(
    name: str, content: str, read: Callable[[Path], Any], again: Callable[[Any, Path], Any] | None = None
) -> Parser:
    return Parser(name, lambda path: path.write_text(content, encoding="utf-8"), read, again)


def _of_text(content: str, read: Callable[[str], Any]) -> Parser:
    """Of a text that a command line or another file holds."""
    write = partial(Path.write_text, data=content, encoding="utf-8")
    return Parser("text", write, lambda path: read(path.read_bytes().decode("utf-8", "replace")), is_named=False)


def _in_data_dir(name: str, content: str) -> Parser:
    def write(path: Path) -> None:
        for table, text in (
            ("wav.scp", "a-1 x/1.wav\na-2 x/2 3.wav\n"),
            ("utt2spk", "a-1 a\na-2 a\n"),
            (name, content),
        ):
            (path.parent / table).write_text(text)

    def again(data: DataDir, path: Path) -> None:
        data.write(path.parent)

    def read(path: Path) -> DataDir:
        data = DataDir.read(path.parent)
        return dataclasses.replace(data, duration_s={})  # which are written with six digits

    return Parser(name, write, read, None if name in ("segments", "spk2utt", "utt2dur") else again)


def _trials(table: TrialTable) -> list[Any]:
    return [[table.names(trial) for trial in range(len(table))], table.is_target.tolist()]


def _write_trials(value: list[Any], path: Path) -> None:
    write_trials(path, [Trial(*names.split(" "), is_target) for names, is_target in zip(*value, strict=True)])


def _table(path: Path) -> TrialTable:
    pairs = np.array([(one, two) for one in range(4) for two in range(4, 8)], np.int32)
    return TrialTable(path, NAMES, pairs[:, 0], pairs[:, 1], np.arange(16) % 3 == 0)


def _scores(path: Path) -> list[Any]:
    trials, scores, measures = read_scores(path)
    digits = [f"{score:.9g}" for score in scores.tolist()]
    columns = None if measures is None else [[f"{value:.6g}" for value in row] for row in measures.tolist()]
    return [*_trials(trials), digits, columns]


def _write_score_text(path: Path, num_measures: int = 0) -> None:
    rng = np.random.default_rng(0)
    measures = rng.standard_normal((16, num_measures)) if num_measures else None
    write_scores(path, _table(path), rng.standard_normal(16), measures)
    for belonging in (Path(f"{path}.npz"), Path(f"{path}.npz.crc32"), checksum_path(path)):
        belonging.unlink()


def _write_scores(value: list[Any], path: Path) -> None:
    names, labels, digits, columns = value
    pairs = [pair.split(" ") for pair in names]
    utterances = list(dict.fromkeys(name for pair in pairs for name in pair))
    sides = np.array([[utterances.index(name) for name in pair] for pair in pairs], np.int32)
    table = TrialTable(path, utterances, sides[:, 0], sides[:, 1], np.array(labels))
    measures = None if columns is None else np.array(columns, np.float64)
    write_scores(path, table, np.array(digits, np.float64), measures)


def _write_score_cache(path: Path) -> None:
    rng = np.random.default_rng(1)
    write_scores(path.with_suffix(""), _table(path), rng.standard_normal(16), rng.standard_normal((16, 4)), text=False)
    checksum_path(path).unlink()


def _vectors() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((len(NAMES), DIM)).astype(np.float32)


def _write_vectors(path: Path) -> None:
    write_vectors(path.parent, "x", NAMES, _vectors())
    checksum_path(path.with_suffix(".scp")).unlink()


def _read_vectors(path: Path) -> Any:
    table = VectorTable(path.with_suffix(".scp"))
    return table.names, table.load(table.names)


def _kaldi(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        arrays = {name: vector.astype(np.float64) for name, vector in zip(NAMES, _vectors(), strict=True)}
        kaldiio.save_ark(str(path), arrays, scp=str(path.with_suffix(".scp")), **options)

    return write


def _config(path: Path) -> str:
    return load_config([path]).to_yaml()


_CONFIG = """
num_epochs: 90
gpus: [0, 1]
dataset_args: {num_frms: 200, fbank_args: {num_mel_bins: 40}, aug_prob: 0.5}
model: ResNet34
model_args: &sizes {feat_dim: 40, embed_dim: 128}
projection_args: {project_type: q_margin, scale: 30.0, alpha: 1.5}
scheduler_args: {initial_lr: 5e-2, final_lr: 5e-5}
"""
_YAML = """
a: &a {b: [1, 2.5e-3, true, null, ~], c: "x\\ty\\u00fc"}
<<: *a
d: !!str 5
e: |
  text
  more
f: 2024-01-31
g: !!set {x, y}
? h
: !!binary aGVsbG8=
"""


def _metrics(path: Path) -> Any:
    return read_metrics(RunFolder(path.parent), "run", "baselines", "training", "provenance")


_METRICS = json.dumps(
    {
        "run": "x", "baselines": {"ltas": "exp/ltas"}, "training": None, "provenance": {},
        "corpus": {"name": "mini", "headline": "all"},
        "trial_lists": {"all": {"systems": {"trained": {"eer": 0.1, "eer_threshold": 0.5}}}},
    }
)  # fmt: skip
_LOG = (
    '{"type": "step", "epoch": 1, "step": 1, "loss": 4.5}\n{"type": "valid", "epoch": 1, "step": 2, "eer": 0.25}\n'
    '{"type": "epoch", "epoch": 1, "step": 2, "samples": 3, "minutes": 0.5}\n'
)


def _calibration() -> Calibration:
    return Calibration(
        measures=["log duration"], low=[0.1], high=[2.5], centre=[1.5], target_mean=4.0, nontarget_mean=-1.25,
        target_slope=[0.5], nontarget_slope=[0.25], deviation=3.5, base=(1.0, -0.75), full=(0.5, -0.5),
    )  # fmt: skip


def _save_calibration(value: Any, path: Path) -> None:
    save_calibration(path, *value)
    checksum_path(path).unlink()


def _write_checksummed(path: Path) -> None:
    write_vectors(path.parent, "x", NAMES, _vectors())


def _tone(seed: int = 0, seconds: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * 200 * np.arange(int(seconds * RATE)) / RATE
    return (0.3 * np.sin(phase) + 0.01 * rng.standard_normal(len(phase))).astype(np.float32)


def _audio(name: str, **options: Any) -> Parser:
    def write(path: Path) -> None:
        soundfile.write(path, _tone(), RATE, **options)

    return Parser(name, write, read_audio)


def _write_m4a(path: Path) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(_tone()[None, :3072], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def _wav(seed: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, _tone(seed, 0.05), RATE, format="WAV")
    return buffer.getvalue()


def _write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as output:
        for number in range(2):
            for suffix, content in (("spk", b"anna"), ("wav", _wav(number))):
                info = tarfile.TarInfo(f"a-{number}.{suffix}")
                info.size = len(content)
                output.addfile(info, io.BytesIO(content))


def _write_pax(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as output:
        info = tarfile.TarInfo("ü" * 120 + ".wav")
        info.size, info.mtime, info.pax_headers = 300, 1.5, {"comment": "x"}
        output.addfile(info, io.BytesIO(bytes(300)))


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as output:
        for number, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
            output.writestr(f"id10001/v/{number}.wav", _wav(number), method)


def _members(listing: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        archives._open_joined.cache_clear()
        return {member.name: archives.read_member(member.locator) for member in listing(path)}

    return read


def _write_lmdb(path: Path) -> None:
    import lmdb

    content = {"a/x.wav": _wav(0), "b/y.wav": _wav(1), "z.wav": b"z"}
    with lmdb.open(str(path.parent), lock=False, map_size=1 << 18) as database, database.begin(write=True) as writing:
        for name, value in content.items():
            writing.put(name.encode(), value)


def _read_lmdb(path: Path) -> Any:
    archives._open_lmdb.cache_clear()
    try:
        return {member.name: archives.read_member(member.locator) for member in archives.list_lmdb(path.parent)}
    finally:
        if archives._open_lmdb.cache_info().currsize:
            archives._open_lmdb(str(path.parent)).close()  # it opens no file twice


def _write_gz_deb(path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as output:
        info = tarfile.TarInfo("./usr/share/x/a.wav")
        info.size = len(_wav(0))
        output.addfile(info, io.BytesIO(_wav(0)))
    entries = {"debian-binary": b"2.0\n", "data.tar.gz": inner.getvalue()}
    ar = b"!<arch>\n" + b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        + content
        + b"\n" * (len(content) % 2)
        for name, content in entries.items()
    )
    path.write_bytes(ar)


def _unpack_deb(path: Path) -> None:
    shutil_which, deb.shutil.which = deb.shutil.which, lambda name: None
    try:
        deb.unpack_audio(path, path.parent / "unpacked")
    finally:
        deb.shutil.which = shutil_which


def _write_packed(path: Path) -> None:
    """A packed set beside ``path``, whose tars have paths of this folder."""
    root = path.parent
    for number in range(3):
        soundfile.write(root / f"{number}.wav", _tone(number), RATE)
    keys = {f"a-{number}": f"a{number % 2}" for number in range(3)}
    DataDir(wav={key: str(root / f"{key[2:]}.wav") for key in keys}, speaker=keys).write(root)
    pack_data_dir(root, sample_rate=RATE, utterances_per_shard=2, num_workers=1)


def _seal_facts(path: Path) -> None:
    """Give ``shard.index.json`` the digests of what it and the table hold now."""
    if not all(each.is_file() and each.stat().st_size < _MOST_BYTES for each in (path, path.with_suffix(".npy"))):
        return
    try:
        facts = json.loads(path.read_bytes())
        facts["records_sha256"] = hashlib.sha256(path.with_suffix(".npy").read_bytes()).hexdigest()
        facts[index_files.TAR_TIMES] = index_files.tar_times([Path(tar) for tar in facts["tars"]])
        facts.pop("sha256", None)
        facts["sha256"] = hashlib.sha256(index_files.canonical(facts)).hexdigest()
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        return
    path.write_text(json.dumps(facts))


def _read_index(path: Path) -> Any:
    shard_list = path.parent / "shard.list"
    _seal_facts(index_files.facts_path(shard_list))
    index = ShardIndex.load(shard_list)
    keys = [index.key(i) for i in range(len(index.records))]
    speakers = [index.speaker_names[number] for number in index.records["speaker"].tolist()]
    return keys, speakers, [index.tars[shard] for shard in index.records["shard"].tolist()], index.shard_start


def _write_rows_list(path: Path) -> None:
    _write_packed(path.parent.parent / "x")


def _read_rows_list(path: Path) -> Any:
    if path.is_file() and path.stat().st_size < _MOST_BYTES:
        body = path.read_bytes().rpartition(CHECKSUM_MARK.encode())[0] or path.read_bytes()
        path.write_bytes(body + f"{CHECKSUM_MARK}{hashlib.sha256(body).hexdigest()}\n".encode())
    tar = path.with_name(path.name.removesuffix(".index.tsv") + ".tar")
    return list(index_rows(Shard(tar, [], DoneMarker(path.parent / "none", {}, []))))


def _tensors(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{number}.weight": torch.randn(4, 3, generator=generator) for number in range(3)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _checkpoint(path: Path) -> Any:
    value = checkpoint.load(path)
    checkpoint.refuse_not_finite(value if isinstance(value, dict) else {}, path)
    return _plain(value)


def _write_state(path: Path) -> None:
    state = dict.fromkeys(checkpoint.TRAINING_STATE, 1) | {
        "config": "dataloader_args: {batch_size: 8}",
        "speakers": ["anna", "ben"],
        "model": _tensors(),
        "optimizer": {"state": {0: _tensors(1)}, "param_groups": [{"params": [0], "lr": 0.1}]},
        "scaler": {},
        "rng": torch.get_rng_state(),
    }
    torch.save(state, path)


_SIZES = {"feat_dim": 16, "embed_dim": DIM, "m_channels": 2}


def _model() -> ModelFolder:
    torch.manual_seed(0)
    encoder = encoder_named("ResNet18", _SIZES, "here")
    network = NetworkCard(encoder="ResNet18", arguments=_SIZES, embed_dim=DIM, min_frames=encoder.min_frames)
    features = FeatureCard(sample_rate=RATE, num_mel_bins=16, frame_length_ms=25, frame_shift_ms=10, trim_silence=True)
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    rng = np.random.default_rng(3)
    is_target = np.arange(60) < 20
    scores = rng.standard_normal(60) + 3 * is_target
    return ModelFolder(
        path=Path("here"),
        fingerprint=fingerprint(network, features, weights),
        network=network,
        features=features,
        scoring=ScoringCard(normalisation="asnorm", top_n=3, largest_change=0.0),
        calibration=dataclasses.asdict(_calibration()),
        evidence=Evidence(
            corpus="mini", trial_list="all", caveat="", num_targets=20, num_nontargets=40, num_speakers=5,
            thresholds=[],
            curve=curve(roc_steps(scores, is_target)), histogram=histogram(scores, is_target), bandwidth_hz=None,
        ),
        training={},
        figures={},
        weights=weights,
        mean=rng.standard_normal(DIM).astype(np.float32),
        cohort=rng.standard_normal((6, DIM)).astype(np.float32),
    )  # fmt: skip


def _model_contents() -> dict[str, bytes]:
    model = _model()
    files = {
        model_files.WEIGHTS: model_files.safetensors(model.weights),
        model_files.COHORT: model_files.safetensors({"mean": model.mean, "speakers": model.cohort}),
    }
    content = json.loads(model.metadata()[model_files.DESCRIPTION])
    content = {name: content[name] for name in content if name not in ("format", "version", "sha256", "files")}
    return {**files, model_files.DESCRIPTION: model_files.description(content, files)}


def _write_model(path: Path) -> None:
    for name, content in _model_contents().items():
        (path.parent / name).write_bytes(content)


def _seal_model(folder: Path) -> None:
    """Give ``model.json`` the digests of what the folder holds now."""
    path = folder / model_files.DESCRIPTION
    if not all((folder / name).is_file() for name in (path.name, model_files.WEIGHTS, model_files.COHORT)):
        return
    try:
        content = json.loads(path.read_bytes())
        for name, entry in content["files"].items():
            data = (folder / name).read_bytes()
            entry.update(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        weights = model_files.read_tensors(folder, "", (folder / model_files.WEIGHTS).read_bytes())
        network, features = NetworkCard(**content["network"]), FeatureCard(**content["features"])
        content["fingerprint"] = fingerprint(network, features, weights)
        content.pop("sha256", None)
        content["sha256"] = hashlib.sha256(model_files.canonical(content)).hexdigest()
    except Exception:  # then it is refused as it is
        return
    path.write_text(json.dumps(content))


def _read_model(path: Path) -> str:
    _seal_model(path.parent)
    return _used(Speaker.load(path.parent, device="cpu"))


def _used(model: Speaker) -> str:
    decision = model.verify(*(_recording(seed) for seed in range(2)), far=0.1)
    return decision.rests_on


def _recording(seed: int) -> io.BytesIO:
    buffer = io.BytesIO()
    soundfile.write(buffer, _tone(seed, 0.6), RATE, format="WAV")
    buffer.seek(0)
    return buffer


def _write_model_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _model_contents().items():
            archive.writestr(name, content)


def _write_onnx(path: Path) -> None:
    write_onnx_model(_model(), path)


def _listener() -> Speaker:
    """A model whose embeddings are given."""

    class NoNetwork:
        sample_rate, embed_dim, max_frames = RATE, DIM, None

        def embed(self, waveforms: Any) -> Any:
            raise NotImplementedError

    return Speaker(_model(), NoNetwork())  # type: ignore[arg-type]


def _write_store(path: Path) -> None:
    model = _listener()
    voices = [(name, [Voice(f"{name}.wav", 2.5, vector)]) for name, vector in zip(NAMES, _vectors(), strict=True)]
    SpeakerStore(path).enrol_many(voices, model)


def _read_store(path: Path) -> Any:
    model = _listener_once()
    speakers = SpeakerStore(path).speakers()
    return speakers, SpeakerStore(path).nearest(Voice("x", 1.0, _vectors()[0]), model).num_speakers


_listeners: list[Speaker] = []


def _listener_once() -> Speaker:
    if not _listeners:
        _listeners.append(_listener())
    return _listeners[0]


PARSERS: dict[str, Parser] = {
    "table": _text("table", "a-1 x y\na-2\tz\n", read_map, lambda value, path: write_rows(path, value.items())),
    "numbers": _text("utt2dur", "a-1 1\na-2 2.5\nb-1 1e1\n", lambda path: read_numbers(path, "seconds")),
    "tsv": _text("x.tsv", "spk\tsplit\nanna\ttrain\nben\t\n", lambda path: read_tsv(path, ("spk", "split"))),
    "names": _text("names", "anna\nben\nJosé\n", read_names),
    "wav.scp": _in_data_dir("wav.scp", "a-1 x/1.wav\na-2 zip:1:2:8:90abcdef:x.zip!/a.wav\n"),
    "utt2spk": _in_data_dir("utt2spk", "a-1 a\na-2 a\n"),
    "utt2dur": _in_data_dir("utt2dur", "a-1 1\na-2 2.5\n"),
    "spk2utt": _in_data_dir("spk2utt", "a a-1 a-2\n"),
    "segments": _in_data_dir("segments", "a-1 a-1 0 1.25\na-2 a-1 1e0 -1\n"),
    "trials": _text(
        "trials", "a-1 a-2 target\na-1 b-1 nontarget\n", lambda path: _trials(read_trial_table(path)), _write_trials
    ),
    "VoxCeleb's trials": _text("list", "1 a-1 a-2\n0 a-1 b-1\n", lambda path: _trials(read_trial_table(path))),
    "pairs": _text("pairs", "a-1 a-2\na-1 b-1\n", lambda path: _trials(read_pairs(path))),
    "published trials": _text("veri_test.txt", "1 a-1 a-2\n0 a-1 b-1\n", read_published_trials),
    "scores": Parser("x.score", _write_score_text, _scores, _write_scores),
    "normalised scores": Parser("x.asnorm.score", partial(_write_score_text, num_measures=4), _scores, _write_scores),
    "score cache": Parser("x.score.npz", _write_score_cache, lambda path: _scores(path.with_suffix(""))),
    "scp": Parser("x.scp", _write_vectors, _read_vectors),
    "ark of floats": Parser("x.ark", _write_vectors, _read_vectors),
    "ark of doubles": Parser("x.ark", _kaldi(), _read_vectors),
    "ark of text": Parser("x.ark", _kaldi(text=True), _read_vectors),
    "yaml": _text(
        "x.yaml",
        _YAML,
        lambda path: parse_yaml(read_text(path), str(path)),
        lambda value, path: path.write_text(dump_yaml(value), encoding="utf-8"),
    ),
    "configuration": _text(
        "x.yaml", _CONFIG, _config, lambda value, path: path.write_text(value, encoding="utf-8")
    ),
    "override": _of_text("num_epochs=90", lambda text: load_config([], [text]).to_yaml()),
    "corpus.yaml": _text(
        "corpus.yaml",
        "name: x\nheadline: all\ntrials: {all: eval}\nlicence: free\n",
        CorpusInfo.load,
        lambda value, path: value.save(path),
    ),
    "recipe of a folder": _text(
        "corpus.yaml",
        "kind: folder\nnum_rooms: 7\nseed: 3\neval_speakers: [anna, ben]\n",
        lambda path: read_settings(FolderSettings, path.parent),
    ),
    "recipe of mini": Parser(
        "corpus.yaml",
        lambda path: path.write_bytes(Path("egs/mini/corpus.yaml").read_bytes()),
        lambda path: read_settings(MiniSettings, path.parent),
    ),
    "recipe of VoxCeleb": Parser(
        "corpus.yaml",
        lambda path: path.write_bytes(Path("egs/voxceleb/corpus.yaml").read_bytes()),
        lambda path: read_settings(VoxcelebSettings, path.parent),
    ),
    "json": _text(
        "x.json", '{"a": [1, 2.5e-3, null, true, "\\u00fc"]}', lambda path: parse_json(read_text(path), path, "x"),
        lambda value, path: path.write_text(json.dumps(value), encoding="utf-8"),
    ),
    "metrics.json": _text("metrics.json", _METRICS, _metrics),
    "training log": _text("train_log.jsonl", _LOG, lambda path: vars(read_training_history(path))),
    "calibration": Parser(
        "calibration.json",
        lambda path: _save_calibration((_calibration(), {"all": EerCheck(0.1, 0.1, 1e-9, 0.5)}), path),
        load_calibration,
        _save_calibration,
    ),
    "checksum": Parser("x.scp.crc32", _write_checksummed, lambda path: verify(path.with_suffix(""), "again")),
    "done marker": _text(
        "done",
        '{"inputs": {"code": 1, "a": 2}, "outputs": {"x": "CRC-32 00000000 of 0 bytes"}}',
        lambda path: DoneMarker(path, {"a": 2}, [path], checks_outputs=True).changes(),
    ),
    "ledger": _text(
        ".wespeaker_qm", "Made by wespeaker-qm, which may replace these:\nx\n",
        lambda path: made_by_stages(path.parent / "x"),
    ),
    "shard list": _text("shard.list", "x/shards_000000.tar\nx/shards_000001.tar\n", read_shard_list),
    "list beside a tar": Parser("shards/shards_000000.index.tsv", _write_rows_list, _read_rows_list),
    "index of shards": Parser("shard.index.json", _write_packed, _read_index),
    "table of shards": Parser("shard.index.npy", _write_packed, _read_index),
    "tar of another program": Parser("x.tar", _write_tar, lambda path: list(scan_tar(path))),
    "tar": Parser("x.tar", _write_tar, _members(archives.list_tar), is_named=False),
    "tar with extended headers": Parser("x.tar", _write_pax, _members(archives.list_tar), is_named=False),
    "zip": Parser("x.zip", _write_zip, _members(archives.list_zip), is_named=False),
    "LMDB": Parser("lmdb/data.mdb", _write_lmdb, _read_lmdb, is_named=False),
    "locator": _of_text("tar:0:10:setup.py!/a.wav", archives.read_member),
    "Debian package": Parser("x_1_all.deb", _write_gz_deb, _unpack_deb, leaves=True),
    "mean vector": Parser("mean_vec.npy", lambda path: np.save(path, _vectors()[0]), load_mean),
    "checkpoint": Parser("x.pt", lambda path: torch.save(_tensors(), path), _checkpoint),
    "checkpoint of PyTorch 1.5": Parser(
        "x.pt", lambda path: torch.save(_tensors(), path, _use_new_zipfile_serialization=False), _checkpoint
    ),
    "safetensors": Parser(
        "x.safetensors",
        lambda path: path.write_bytes(model_files.safetensors({"a.weight": _vectors()})),
        _checkpoint,
    ),
    "state of a training": Parser("step_7.pt", _write_state, lambda path: _plain(read_state(path))),
    "model.json": Parser("model.json", _write_model, _read_model),
    "cohort of a model": Parser("cohort.safetensors", _write_model, _read_model),
    "model.zip": Parser("model.zip", _write_model_zip, lambda path: ModelFolder.read(path).fingerprint),
    "model.onnx": Parser(
        "model.onnx", _write_onnx, lambda path: _used(Speaker.load(path, device="cpu")), is_named=False
    ),
    "store of speakers": Parser("speakers.sqlite", _write_store, _read_store, leaves=True),
    "wav": _audio("x.wav"),
    "wav of floats": _audio("x.wav", subtype="FLOAT"),
    "wav of ADPCM": _audio("x.wav", subtype="IMA_ADPCM"),
    "flac": _audio("x.flac"),
    "ogg": _audio("x.ogg"),
    "opus": _audio("x.opus", format="OGG", subtype="OPUS"),
    "mp3": _audio("x.mp3"),
    "aiff": _audio("x.aiff"),
    "au": _audio("x.au"),
    "caf": _audio("x.caf"),
    "w64": _audio("x.w64"),
    "nist": _audio("x.nist", format="NIST"),
    "m4a": Parser("x.m4a", _write_m4a, read_audio),
    "audio in a tar": Parser(
        "x.wav",
        lambda path: path.write_bytes(_wav(0)),
        lambda path: audio_facts(path.read_bytes()),
        is_named=False,
    ),
    "speakers to evaluate": _of_text("anna,ben", parse_eval_speakers),
    "vox2_meta.csv": _text("vox2_meta.csv", "VoxCeleb2 ID, Set\nid00012, dev\nid00017, test\n", _vox2_test_speakers),
}  # fmt: skip
