"""What several test folders share: a generator, a tiny corpus of synthetic voices, a tiny evaluated experiment."""

import argparse
import contextlib
import importlib.util
import json
import logging
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.utils._python_dispatch import TorchDispatchMode

import wespeaker_qm.losses.kernels
from wespeaker_qm import stages
from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.bin import main as program
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.operating_points import roc_steps
from wespeaker_qm.export.contents import Curve, Evidence, FeatureCard, Histogram, NetworkCard, ScoringCard
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.tables import write_rows
from wespeaker_qm.utils.vectors import write_vectors

RATE = 16000

if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
    # Kernels run on the CPU, in Triton's interpreter, which is decided when it, and then a kernel, is imported: here,
    # before any test does.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.experimental.gluon")  # which the interpreter would import at its first kernel
        for kernels in pkgutil.iter_modules(wespeaker_qm.losses.kernels.__path__):
            importlib.import_module(f"wespeaker_qm.losses.kernels.{kernels.name}")

# No test asserts a time, and random examples are the same each time.
settings.register_profile("seeded", deadline=None, derandomize=True)
settings.load_profile("seeded")


_LONGEST = ("tests/recipe/", "tests/installed/", "tests/train/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders with files of minutes come first: at the end all processes have short ones to share."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """What a program run in this process does to logging is undone."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("wespeaker_qm").level
    yield
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[:2]
    logging.getLogger("wespeaker_qm").setLevel(before[2])
    logging.captureWarnings(False)


_NAMED_WITH_ITS_PROGRAM = re.compile(r"(\brun\.sh|\b(?:wespeaker-qm|main\.py) [a-z-]+|\begs/\w+)\b[^;()\n]*")


@pytest.fixture(autouse=True)
def _options_of_the_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test is about: each option that an error of a command names is one of the command, or its program's
    name stands before it."""
    unknown: list[str] = []
    parse = program._parse
    command: list[str] = []

    def parsing(arguments: Sequence[str]) -> Any:
        command[:] = arguments
        return parse(arguments)

    def known() -> set[str]:
        parser, module = argparse.ArgumentParser(), program._module(command[0])
        module.add_arguments(parser)
        if hasattr(module, "add_dependent_arguments"):
            with contextlib.suppress(RecipeError):
                module.add_dependent_arguments(parser, command[1:])
        return {"--log", *parser._option_string_actions}

    class Check(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            own = _NAMED_WITH_ITS_PROGRAM.sub("", record.getMessage())
            named = re.findall(r"(?<![\w'/=-])--[a-z]\w+", own)
            unknown.extend(f"{command[0]}: {name} in: {own}" for name in named if name not in known())

    monkeypatch.setattr(program, "_parse", parsing)
    check = Check(logging.ERROR)
    program.logger.addHandler(check)
    yield
    program.logger.removeHandler(check)
    assert not unknown, "\n".join(unknown)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed PyTorch, and put its generator and thread count back afterwards."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


class Products(TorchDispatchMode):
    """A context in which PyTorch may round the factors of products as coarsely as it can, and each product is noted."""

    _operations = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,
        torch.backends.mkldnn.matmul,
        torch.backends.mkldnn.conv,
    )
    _names = ("mm", "addmm", "addmm_", "bmm", "matmul", "linear", "convolution", "conv2d")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __enter__(self) -> "Products":
        self._found = [operation.fp32_precision for operation in self._operations]
        for operation in self._operations:
            operation.fp32_precision = "tf32"
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for operation, found in zip(self._operations, self._found, strict=True):
            operation.fp32_precision = found

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if name in self._names:
            self.seen.append((name, all(switch.fp32_precision == "ieee" for switch in self._operations)))
        return operation(*args, **(kwargs or {}))

    @property
    def are_exact(self) -> bool:
        """Whether every product was one of IEEE float32, and there was one."""
        return bool(self.seen) and all(exact for _, exact in self.seen)


@pytest.fixture
def products() -> Products:
    """A context for code whose products must be IEEE float32 though PyTorch's switches allow less."""
    return Products()


def _voice(pitch_hz: float, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """A buzz that switches between two "vowels" of its speaker: mean normalisation leaves their difference to learn."""
    num_samples = int(duration_s * RATE)
    speaker = np.random.default_rng(int(pitch_hz))
    first, second = speaker.uniform(0, 1, (2, 40))
    is_first = (np.arange(num_samples) // 1600 + rng.integers(2)) % 2 == 0
    phase = 2 * np.pi * pitch_hz * np.arange(num_samples) / RATE
    buzz = sum(np.where(is_first, first[k], second[k]) * np.sin((k + 1) * phase) for k in range(40)) / 40
    return (0.5 * buzz + 0.003 * rng.standard_normal(num_samples)).astype(np.float32)


def _write_set(root: Path, name: str, recordings: dict[str, tuple[str, np.ndarray]]) -> None:
    directory = root / name
    for key, (_, waveform) in recordings.items():
        write_wav(directory / "wav" / f"{key}.wav", waveform, RATE)
    DataDir(
        wav={key: str(directory / "wav" / f"{key}.wav") for key in recordings},
        speaker={key: speaker for key, (speaker, _) in recordings.items()},
        duration_s={key: len(waveform) / RATE for key, (_, waveform) in recordings.items()},
    ).write(directory)
    pack_data_dir(directory, sample_rate=RATE, utterances_per_shard=10, num_workers=1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus: 4 training and 3 held-out speakers, 6 utterances of 1 to 2 s each, 3 noises, 4 RIRs."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(7)

    def speakers(prefix: str, pitches_hz: list[float]) -> dict[str, tuple[str, np.ndarray]]:
        return {
            f"{prefix}{index}-{take}": (f"{prefix}{index}", _voice(pitch_hz, rng.uniform(1, 2), rng))
            for index, pitch_hz in enumerate(pitches_hz)
            for take in range(6)
        }

    evaluation = speakers("e", [95, 150, 210])
    _write_set(root, "train", speakers("t", [90, 120, 170, 240]))
    _write_set(root, "eval", evaluation)
    noises = {
        f"n{index}": (kind, rng.standard_normal(RATE).astype(np.float32) * 0.1)
        for index, kind in enumerate(("noise", "music", "speech"))
    }
    _write_set(root, "noise", noises)
    decay = np.exp(-np.arange(2000) / 300)
    rirs = {
        f"r{index}": (f"room{index}", (decay * rng.standard_normal(2000) * 0.3).astype(np.float32))
        for index in range(4)
    }
    _write_set(root, "rirs", rirs)
    pairs = [(one, two) for one in evaluation for two in evaluation if one < two]
    for name in ("all", "eval"):
        write_rows(
            root / "trials" / name,
            [(one, two, "target" if evaluation[one][0] == evaluation[two][0] else "nontarget") for one, two in pairs],
        )
    CorpusInfo(name="tiny", trials={"all": "eval"}, headline="all", validation="eval", noise="noise", rirs="rirs").save(
        root / "corpus.yaml"
    )
    return root


TINY_CONFIG = """
device: cpu
num_threads: 1
num_epochs: 3
num_avg: 1
save_epoch_interval: 1
log_batch_interval: 2
valid_epoch_interval: 3
dataloader_args: {batch_size: 8, num_workers: 0}
dataset_args:
  num_frms: 40
  filter_args: {min_num_frames: 40}
  fbank_args: {num_mel_bins: 16}
  channel_prob: 0.5
  spec_aug: true
model_args: {feat_dim: 16, embed_dim: 8, m_channels: 4}
projection_args: {project_type: q_margin, scale: 10.0, alpha: 1.5}
margin_update: {increase_start_epoch: 2, fix_start_epoch: 3}
scheduler_args: {warm_up_epoch: 1}
"""


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a configuration with every augmentation on, that trains on the tiny corpus in seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY_CONFIG)
    return path


@pytest.fixture
def tiny_config(tiny_yaml: Path) -> Config:
    """What that file says."""
    return load_config([tiny_yaml])


NUM_UTTERANCES, DIM = 8, 16
SETS = {
    "eval": [f"s{number}" for number in range(6)],
    "train": [f"t{number}" for number in range(8)],
    "valid": [f"v{number}" for number in range(5)],
}
EVALUATE = ("evaluate", "--data", "data/tiny", "--num_resamples", "50")
ROWS = ("arcface", "cosface", "entmax_a2.0", "entmax_a1.75", "qmargin_a1.75", "qmargin_a1.5")


@pytest.fixture(scope="session")
def repository():
    """The root of the repository, where conf/ lies."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def write_training_log():
    """Function: write ``train_log.jsonl``."""
    return _write_training_log


@pytest.fixture(scope="session")
def _template(tmp_path_factory, repository):
    """A folder with data/tiny and exp/tiny: Table 5's six runs, and ltas as a baseline of the last one.

    ArcFace was trained with another scale than the paper's.
    """
    root = tmp_path_factory.mktemp("recipe")
    (root / "conf").symlink_to(repository / "conf")
    with contextlib.chdir(root):
        _write_corpus()
        _write_run("ltas", noise=3.0)
        for position, loss in enumerate(ROWS):
            folder = _write_run(loss, noise=0.8 + 0.1 * position)
            overrides = ["projection_args.scale=16"] if loss == "arcface" else []
            load_config(["conf/resnet34.yaml", f"conf/loss/{loss}.yaml"], overrides).save(folder / "config.yaml")
            _write_training_log(folder / "train_log.jsonl")
            baseline = ["--baseline", "ltas=exp/tiny/ltas"] if loss == ROWS[-1] else []
            assert main([*EVALUATE, "--exp_dir", str(folder), *baseline]) == 0
    return root


@pytest.fixture
def recipe(_template, tmp_path, monkeypatch):
    """A copy of the template, as the current directory."""
    root = tmp_path / "recipe"
    shutil.copytree(_template, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def _write_corpus():
    """Sets of 8 training, 6 evaluation and 5 validation speakers, the last two with audio; and trial lists."""
    data = Path("data/tiny")
    (data / "trials").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, speakers in SETS.items():
        speaker = {f"{s}-u{u}": s for s in speakers for u in range(NUM_UTTERANCES)}
        folder = data / name
        folder.mkdir()
        (folder / "utt2spk").write_text("".join(f"{key} {value}\n" for key, value in speaker.items()))
        if name == "train":
            continue
        for key in speaker:
            write_wav(folder / "wav" / f"{key}.wav", 0.1 * rng.standard_normal(rng.integers(4000, 9000)), 8000)
        wav = {key: str(folder / "wav" / f"{key}.wav") for key in speaker}
        DataDir(wav=wav, speaker=speaker, duration_s={key: 0.5 for key in speaker}).write(folder)
        pack_data_dir(folder, sample_rate=8000, utterances_per_shard=30, num_workers=1)
        pairs = [(a, b) for a in speaker for b in speaker if a < b]
        lines = [f"{a} {b} {'target' if speaker[a] == speaker[b] else 'nontarget'}\n" for a, b in pairs]
        (data / "trials" / {"eval": "all"}.get(name, name)).write_text("".join(lines))
        if name == "eval":
            near = [line for line in lines if " target" in line or any(one in line for one in ("s0", "s1", "s2"))]
            (data / "trials" / "near").write_text("".join(near))
    info = CorpusInfo(
        name="tiny",
        description="Simulated.",
        caveat="No voices at all.",
        trials={"near": "eval", "all": "eval"},
        headline="near",
        validation="valid",
    )
    info.save(data / "corpus.yaml")


def _write_run(name, noise):
    """Embeddings and scores of one system."""
    rng = np.random.default_rng(1)
    folder = Path("exp/tiny") / name
    embeddings = folder / "embeddings"
    for set_name, speakers in SETS.items():
        centre = {speaker: rng.standard_normal(DIM) for speaker in speakers}
        vectors = {
            f"{s}-u{u}": (centre[s] + noise * rng.standard_normal(DIM)).astype(np.float32)
            for s in speakers
            for u in range(NUM_UTTERANCES)
        }
        write_vectors(embeddings / set_name, "xvector", list(vectors), np.stack(list(vectors.values())))
    np.save(embeddings / "mean_vec.npy", np.full(DIM, 0.1, np.float32))
    assert main(["score", "--data", "data/tiny", "--exp_dir", str(folder)]) == 0
    return folder


def _write_training_log(path, num_epochs=4, with_steps=True):
    """What the trainer writes: 10 steps of 32 samples an epoch, a record every 5."""
    with path.open("w") as handle:
        for step in range(1, 10 * num_epochs + 1):
            epoch = (step - 1) // 10 + 1
            scheduled = {"margin": 0.01 * epoch, "learning_rate": 0.1 / step}
            figures = {"loss": 3 / step, "accuracy": 1 - 1 / step, "samples_per_s": 8.0, "wait_s": 0.0}
            records = []
            if step % 5 == 0 and with_steps:
                records.append({"type": "step", "epoch": epoch, "step": step, **figures, **scheduled})
            if step % 10 == 0:
                seen = {"samples": 32 * step, "minutes": step / 4}
                records.append({"type": "epoch", "epoch": epoch, "step": step, **figures, **scheduled, **seen})
                records.append({"type": "valid", "epoch": epoch, "step": step, "eer": 0.3 / epoch})
            handle.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="session")
def simulate():
    """Function: a trial list with speaker effects."""
    return _simulate


def _simulate(num_speakers=30, num_targets=600, num_nontargets=1500, *, effect=0.5, distance=2.5, seed=0, digits=None):
    """Speakers, labels (N,) and scores (N,); ``digits`` rounds the scores, which makes ties."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(num_speakers, size=num_targets)
    one = rng.integers(num_speakers, size=num_nontargets)
    other = (one + rng.integers(1, num_speakers, size=num_nontargets)) % num_speakers
    speakers = TrialSpeakers(
        np.concatenate([owner, one]).astype(np.int32), np.concatenate([owner, other]).astype(np.int32), num_speakers
    )
    is_target = np.arange(num_targets + num_nontargets) < num_targets
    u, v = effect * rng.standard_normal((2, num_speakers))
    scores = np.where(
        is_target, distance + v[speakers.enrolment], u[speakers.enrolment] + u[speakers.test]
    ) + rng.standard_normal(len(is_target))
    return speakers, is_target, scores if digits is None else scores.round(digits)


@pytest.fixture(scope="session")
def voice() -> Callable[[float, float, np.random.Generator], np.ndarray]:
    """Function: pitch in Hz, seconds and a generator -> a waveform at ``RATE``."""
    return _voice


@pytest.fixture(scope="session")
def write_set() -> Callable[[Path, str, dict[str, tuple[str, np.ndarray]]], None]:
    """Function: folder of a corpus, set, key -> (speaker, waveform): a packed data directory."""
    return _write_set


class ModelRun(NamedTuple):
    """A run with a model folder, and the corpus that it was evaluated on."""

    data: DataFolder
    run: RunFolder


@pytest.fixture(scope="session")
def _model_run(tmp_path_factory):
    """A network with random weights that stages 4 to 8 went over: 4 training, 6 evaluation, 3 calibration speakers.

    The fourth recording of each has digital silence inside.
    """
    root = tmp_path_factory.mktemp("model")
    data, run = DataFolder(root / "data"), RunFolder(root / "exp" / "voices" / "run")
    rng = np.random.default_rng(3)
    speakers = {"train": [90, 120, 170, 240], "eval": [95, 125, 150, 190, 210, 260], "valid": [105, 140, 200]}
    for name, pitches_hz in speakers.items():
        keys = {f"{name}{index}-{take}": pitch for index, pitch in enumerate(pitches_hz) for take in range(4)}
        waves = {key: _voice(pitch, rng.uniform(0.8, 1.2), rng) for key, pitch in keys.items()}
        for index in range(len(pitches_hz)):
            waves[f"{name}{index}-3"] = np.insert(waves[f"{name}{index}-3"], 6000, np.zeros(4000, np.float32))
        _write_set(data.path, name, {key: (key.partition("-")[0], wave) for key, wave in waves.items()})
        if name != "train":
            pairs = [(one, two) for one in keys for two in keys if one < two]
            labels = ["target" if keys[one] == keys[two] else "nontarget" for one, two in pairs]
            write_rows(data.trials(name), [(*pair, label) for pair, label in zip(pairs, labels, strict=True)])
    caveat, licence = "No voices.", "free"
    trials = {"eval": "eval"}
    CorpusInfo(name="voices", caveat=caveat, licence=licence, trials=trials, headline="eval", validation="valid").save(
        data.info
    )
    config = load_config([], ["device=cpu", *MODEL_SETTINGS])
    config.save(run.config)
    torch.manual_seed(1)
    encoder = build_encoder(config)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
    checkpoint.save(encoder.state_dict(), run.average)
    write_text(run.provenance, json.dumps({"time": "2026-01-31T12:00:00+00:00", "commit": "abc"}))
    stages.extract(data=data, run=run)
    stages.score(data=data, run=run)
    stages.normalise(data=data, run=run, top_n=3)
    stages.calibrate(data=data, run=run)
    stages.evaluate(data=data, run=run, num_resamples=20)
    stages.export(data=data, run=run, num_resamples=20)
    return ModelRun(data, run)


MODEL_SETTINGS = (
    "num_threads=1",
    "dataset_args.fbank_args.num_mel_bins=16",
    "model_args.feat_dim=16",
    "model_args.embed_dim=8",
    "model_args.m_channels=4",
)


@pytest.fixture(scope="session")
def model_run(_model_run):
    """That run, to be read: who changes something takes ``own_model_run``."""
    return _model_run


@pytest.fixture
def own_model_run(_model_run, tmp_path):
    """A copy of it, to be changed. The corpus's audio lies where it did."""
    run = RunFolder(tmp_path / "exp" / "voices" / "run")
    shutil.copytree(_model_run.run, run)
    return ModelRun(_model_run.data, run)


MODEL_DIM, MODEL_RATE = 24, 8000


class _Spectrum:
    """The mean power in ``MODEL_DIM`` bands."""

    sample_rate, embed_dim, max_frames = MODEL_RATE, MODEL_DIM, None

    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        rows = []
        for waveform in waveforms:
            power = np.abs(np.fft.rfft(waveform, 2 * MODEL_DIM * 40)) ** 2
            rows.append(np.log(power[: MODEL_DIM * 40].reshape(MODEL_DIM, 40).mean(axis=1) + 1e-3))
        return np.array(rows, np.float32)


def _evidence(num_nontargets: int = 1000, threshold: float | None = None) -> Evidence:
    """Of a list of normal scores: non-targets about 0, targets about 4; or with one threshold for all rates."""
    rng = np.random.default_rng(0)
    is_target = np.arange(num_nontargets + 200) < 200
    scores = rng.normal(size=len(is_target)) + 4 * is_target
    roc = roc_steps(scores, is_target)
    curve = Curve(threshold=roc.threshold.tolist(), far=roc.far.tolist(), frr=roc.frr.tolist())
    if threshold is not None:
        curve = Curve(threshold=[threshold, -100.0], far=[0.0, 1.0], frr=[0.5, 0.0])
    edges = np.linspace(-4, 8, 25)
    target, nontarget = (np.histogram(scores[kind], edges)[0].tolist() for kind in (is_target, ~is_target))
    return Evidence(
        corpus="tiny",
        trial_list="all",
        caveat="Simulated.",
        num_targets=200,
        num_nontargets=num_nontargets,
        num_speakers=30,
        thresholds=[],
        curve=curve,
        histogram=Histogram(edges=edges.tolist(), target=target, nontarget=nontarget),
        bandwidth_hz=None,
    )


def _model(
    fingerprint: str = "a" * 64,
    *,
    cohort_seed: int | None = 1,
    mean: float = 0.5,
    evidence: Evidence | None = None,
    dim: int = MODEL_DIM,
) -> Speaker:
    """A model; None as a seed leaves the cohort out."""
    cohort = None
    if cohort_seed is not None:
        cohort = np.random.default_rng(cohort_seed).normal(size=(40, dim)).astype(np.float32)
    folder = ModelFolder(
        path=Path("exp/tiny/model"),
        fingerprint=fingerprint,
        network=NetworkCard(encoder="ResNet34", arguments={}, embed_dim=dim, min_frames=1),
        features=FeatureCard(
            sample_rate=MODEL_RATE, num_mel_bins=16, frame_length_ms=25, frame_shift_ms=10, trim_silence=False
        ),
        scoring=ScoringCard(normalisation="asnorm", top_n=20, largest_change=0.0),
        calibration=None,
        evidence=evidence,
        training={},
        figures={},
        weights={},
        mean=np.full(dim, mean, np.float32),
        cohort=cohort,
    )
    return Speaker(folder, _Spectrum())


@pytest.fixture(scope="session")
def evidence_of() -> Callable[..., Evidence]:
    return _evidence


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Speaker]:
    return _model


@pytest.fixture(scope="session")
def model() -> Speaker:
    return _model(evidence=_evidence())


@pytest.fixture
def tone() -> Callable[[float], np.ndarray]:
    """Function: two seconds of a buzz of this pitch."""

    def make(pitch_hz: float, seed: int = 0) -> np.ndarray:
        phase = 2 * np.pi * pitch_hz * np.arange(2 * MODEL_RATE) / MODEL_RATE
        noise = 0.01 * np.random.default_rng(seed).normal(size=2 * MODEL_RATE)
        return (0.2 * np.sin(phase) + 0.1 * np.sin(2 * phase) + noise).astype(np.float32)

    return make
