"""The format of a model folder: all that turns recordings into decisions, in files that run no code.

::

    model/
      model.json            what it is: UTF-8, one JSON object, as below
      weights.safetensors   the network without the classifier, WeSpeaker's parameter names, float32 (counters int64)
      cohort.safetensors    mean (D,) float32 of the training embeddings; speakers (C, D) float16 or float32, the mean
                            embedding of each training speaker; without training speakers neither, without the file
      README.md             the model card, for people; notes of your own belong into another file

or one ``.zip`` of these (at its top, or in one folder of it), which is read as it is. ``model.json`` has

=============== ======================================================================================================
``format``      ``wespeaker_qm model``
``version``     1: of this format. A reader refuses a later one
``sha256``      of the object without this entry, as compact JSON with sorted keys, ASCII only
``fingerprint`` SHA-256 over ``network``, ``features`` and all weights: models with the same one embed alike
``files``       name -> ``num_bytes`` and ``sha256`` of each file above but this one
``network``     :class:`NetworkCard`: which network, and its sizes
``features``    :class:`FeatureCard`: what it is given
``scoring``     :class:`ScoringCard`: how embeddings become a score
``calibration`` :class:`wespeaker_qm.score.calibration.Calibration` as an object; null without one
``evidence``    :class:`Evidence`: what was measured on the headline list, and thresholds; null without trials
``training``    what the network was trained on and by whom: plain values, for people
``figures``     the figures of the headline list as in ``metrics.json``, system -> figures; for people
=============== ======================================================================================================

Everything is checked when it is read: sizes and SHA-256 of the files, the description's own, and the fingerprint. Other
files in the folder are let be. No torch is needed.

An ``.onnx`` file of a model holds the same in its metadata, so that it can be used alone: ``model.json`` as text, which
lists no weights, and ``cohort.safetensors`` in base64. Its graph stands for the weights.

Legend: D embedding dimension, C cohort speakers, K points of a curve, B bins.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.text import parse_json

FORMAT = "wespeaker_qm model"
FORMAT_VERSION = 1
DESCRIPTION, WEIGHTS, COHORT, CARD = "model.json", "weights.safetensors", "cohort.safetensors", "README.md"
_MOST_BYTES = 1 << 28
"""Of the description, which says how long the other files are."""
_NUMBERS = re.compile(r"\[\s+[^\[\]{}\"]+\]")
"""A list that is written in one line."""
_REMEDY = "copy the model again, or export it again (run.sh --stage 8)"
_ENTRIES = ("fingerprint", "network", "features", "scoring", "calibration", "evidence", "training", "figures")
"""Of the description, beside those that tell of it and of the files."""

Normalisation = Literal["asnorm", "snorm", "cosine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """Which network the weights are of."""

    encoder: str
    """Key of :data:`wespeaker_qm.config.model.MODELS`."""
    arguments: dict[str, Any]
    """Its sizes (``model_args``)."""
    embed_dim: int
    """D."""
    min_frames: int
    """The fewest frames that it can embed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCard:
    """What the network is given of a recording: the log mel energies of :mod:`wespeaker_qm.audio.fbank`, less their
    mean over time; no dither.
    """

    sample_rate: int
    """In Hz; recordings of another rate are resampled, and all are rounded to 16 bits."""
    num_mel_bins: int
    frame_length_ms: float
    frame_shift_ms: float
    trim_silence: bool
    """Whether the digital silence in a recording is left out (:mod:`wespeaker_qm.audio.silence`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringCard:
    """How embeddings become a score: the cosine less the training mean, normalised against the cohort."""

    normalisation: Normalisation
    top_n: int | None
    """How many of the nearest cohort speakers count; None for all of them, or without a cohort."""
    largest_change: float
    """By which storing the cohort in fewer bits changes a score of the headline list; 0 in float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where to decide so that so many impostors at most are accepted."""

    far: float
    """Wanted false-accept rate, a fraction."""
    threshold: float | None
    """The lowest with that rate on the list; None where the list has too few trials to measure it."""
    interval: tuple[float, float] | None
    """95 %, for other speakers of this kind."""
    no_interval: str | None
    """Why there is no threshold, or none with an interval."""
    tar: float | None
    """Share of the list's target trials that it accepts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Operating points of the headline list, threshold falling: those at which a curve of it looks the same."""

    threshold: list[float]
    """(K,)"""
    far: list[float]
    """(K,) false-accept rate."""
    frr: list[float]
    """(K,) miss rate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram:
    """Scores of the headline list in B bins of equal width."""

    edges: list[float]
    """(B + 1,)"""
    target: list[int]
    """(B,) trials of one speaker."""
    nontarget: list[int]
    """(B,) trials of two."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What thresholds rest on: the scores of a trial list, normalised as ``scoring`` says."""

    corpus: str
    trial_list: str
    caveat: str
    """What figures of that corpus must not be taken for; may be empty."""
    num_targets: int
    num_nontargets: int
    num_speakers: int | None
    """None where it is not known who speaks."""
    thresholds: list[Threshold]
    curve: Curve
    histogram: Histogram
    bandwidth_hz: float | None
    """Median highest frequency in its recordings; None where it was not measured."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ModelFolder:
    """A model folder as it was read, all of it checked."""

    path: Path
    """Folder or zip."""
    fingerprint: str
    network: NetworkCard
    features: FeatureCard
    scoring: ScoringCard
    calibration: dict[str, Any] | None
    evidence: Evidence | None
    training: dict[str, Any]
    figures: dict[str, Any]
    weights: dict[str, NDArray[Any]]
    """Parameter -> values; nothing of an ``.onnx`` file."""
    mean: NDArray[np.float32] | None
    """(D,) of the training embeddings."""
    cohort: NDArray[np.float32] | None
    """(C, D)"""

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read and check a folder, or a zip of one.

        Raises:
            RecipeError: no such folder, none of a model, of a later format, or damaged: which file, and how.
        """
        path = Path(path)
        return cls._parsed(path, _reader(path), has_weights=True)

    @classmethod
    def of_files(cls, path: Path, files: Mapping[str, bytes]) -> Self:
        """The same of files that are not written yet.

        Args:
            path: where they are to lie, for messages.
            files: name -> content.

        Raises:
            RecipeError: they are of no model.
        """
        return cls._parsed(path, lambda name, most: files.get(name), has_weights=True)

    @classmethod
    def in_metadata(cls, path: Path, metadata: Mapping[str, str]) -> Self:
        """The same from the metadata of an ``.onnx`` file.

        Args:
            path: the file, for messages.
            metadata: key -> text, as :meth:`metadata` makes them.

        Raises:
            RecipeError: there is no model in them, or it is damaged.
        """

        def read(name: str, most: int) -> bytes | None:
            if name not in metadata:
                return None
            if name == DESCRIPTION:
                return metadata[name].encode()
            try:
                return base64.b64decode(metadata[name], validate=True)
            except binascii.Error as error:
                raise _damaged(path, name, str(error)) from error

        return cls._parsed(path, read, has_weights=False)

    def metadata(self) -> dict[str, str]:
        """The model but its weights as metadata of an ``.onnx`` file, key -> text."""
        cohort: dict[str, NDArray[Any]] = {} if self.mean is None else {"mean": self.mean}
        if self.cohort is not None:
            halves = self.cohort.astype(np.float16)
            cohort["speakers"] = halves if np.array_equal(halves, self.cohort) else self.cohort
        files = {COHORT: safetensors(cohort)} if cohort else {}
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content = {name: content[name] for name in _ENTRIES}
        for name, value in content.items():
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                content[name] = dataclasses.asdict(value)
        return {
            DESCRIPTION: description(content, files).decode(),
            **{name: base64.b64encode(data).decode() for name, data in files.items()},
        }

    @classmethod
    def _parsed(cls, path: Path, read: Callable[[str, int], bytes | None], *, has_weights: bool) -> Self:
        content = _description(path, read)
        files = _files(path, content.get("files"), read)
        try:
            weights = _tensors(path, WEIGHTS, files.get(WEIGHTS)) if has_weights else {}
            cohort = _tensors(path, COHORT, files[COHORT]) if COHORT in files else {}
            folder = cls(
                path=path,
                fingerprint=content["fingerprint"],
                network=NetworkCard(**content["network"]),
                features=FeatureCard(**content["features"]),
                scoring=ScoringCard(**content["scoring"]),
                calibration=content["calibration"],
                evidence=None if content["evidence"] is None else _evidence(content["evidence"]),
                training=content["training"],
                figures=content["figures"],
                weights=weights,
                mean=cohort.get("mean"),
                cohort=cohort["speakers"].astype(np.float32) if "speakers" in cohort else None,
            )
            expected = fingerprint(folder.network, folder.features, weights) if has_weights else folder.fingerprint
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise _damaged(path, DESCRIPTION, f"not what a model's description holds ({error!r})") from error
        if folder.fingerprint != expected:
            raise _damaged(path, DESCRIPTION, "the fingerprint is not that of network, features and weights")
        return folder


def fingerprint(network: NetworkCard, features: FeatureCard, weights: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hexadecimal, over everything that changes an embedding."""
    digest = hashlib.sha256(_canonical([dataclasses.asdict(network), dataclasses.asdict(features)]))
    for name in sorted(weights):
        value = np.asarray(weights[name], order="C")
        digest.update(_canonical([name, value.dtype.str, value.shape]))
        digest.update(value.tobytes())
    return digest.hexdigest()


def description(content: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The bytes of ``model.json``.

    Args:
        content: its entries from ``fingerprint`` on, but ``files``.
        files: name -> content of the others.
    """
    sizes = {name: {"num_bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    head, rest = {"format": FORMAT, "version": FORMAT_VERSION}, {**content, "files": sizes}
    full = {**head, "sha256": _sha256(_canonical({**head, **rest})), **rest}
    text = json.dumps(full, indent=1, allow_nan=False)
    return (_NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n").encode()


def safetensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Tensors as a safetensors file."""
    from safetensors.numpy import save

    content: bytes = save({name: np.asarray(value, order="C") for name, value in tensors.items()})
    return content


def _reader(path: Path) -> Callable[[str, int], bytes | None]:
    """A function: name and most bytes -> content of that file; None where there is none.

    Raises:
        RecipeError: there is neither a folder nor a zip.
    """
    if path.is_dir():
        return lambda name, most: _first_bytes(path / name, most) if (path / name).is_file() else None
    if not path.exists():
        raise RecipeError(f"{path}: no such model folder; run.sh --stage 8 makes one (exp/<corpus>/<loss>/model)")
    if not zipfile.is_zipfile(path):
        raise RecipeError(f"{path}: neither a model folder nor a zip of one; name the folder that holds {DESCRIPTION}")
    return lambda name, most: _from_zip(path, name, most)


def _first_bytes(path: Path, most: int) -> bytes:
    with path.open("rb") as handle:
        return handle.read(most + 1)


def _from_zip(path: Path, name: str, most: int) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [entry for entry in archive.namelist() if entry == name or entry.endswith(f"/{name}")]
            outermost = min(inside, key=lambda entry: entry.count("/"), default=None)
            if outermost is None:
                return None
            with archive.open(outermost) as handle:
                return handle.read(most + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise _damaged(path, name, str(error)) from error


def _description(path: Path, read: Callable[[str, int], bytes | None]) -> dict[str, Any]:
    """The checked content of ``model.json``."""
    data = read(DESCRIPTION, _MOST_BYTES)
    if data is None:
        raise RecipeError(f"{path}: found no {DESCRIPTION} there, expected a model folder (run.sh --stage 8 makes one)")
    place = f"{path}/{DESCRIPTION}"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, DESCRIPTION, str(error)) from error
    content = parse_json(text, place, _REMEDY)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise RecipeError(f"{place}: found format {shown(found)}, expected {FORMAT!r}; name the folder of a model")
    version = content.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise RecipeError(
            f"{place}: found version {shown(version)} of the format, this program reads up to {FORMAT_VERSION}; "
            "update wespeaker_qm, or export the model with this version"
        )
    stated = content.pop("sha256", None)
    rest = {name: value for name, value in content.items() if name not in ("format", "version")}
    if stated != _sha256(_canonical({"format": FORMAT, "version": version, **rest})):
        raise _damaged(path, DESCRIPTION, "its content is not that of its sha256")
    return rest


def _files(path: Path, entries: Any, read: Callable[[str, int], bytes | None]) -> dict[str, bytes]:
    """The contents of the files that the description lists, each as it says."""
    if not isinstance(entries, dict):
        raise _damaged(path, DESCRIPTION, "lists no files")
    files = {}
    for name, entry in entries.items():
        try:
            num_bytes, sha256 = int(entry["num_bytes"]), str(entry["sha256"])
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(path, DESCRIPTION, f"says nothing of the size of {name}") from error
        if Path(name).name != name:
            raise _damaged(path, DESCRIPTION, f"lists {shown(name)}, expected the name of a file in the folder")
        data = read(name, num_bytes)
        if data is None:
            raise _damaged(path, name, "it is missing")
        if len(data) != num_bytes:
            size = f"more than {num_bytes:,}" if len(data) > num_bytes else f"{len(data):,}"
            raise _damaged(path, name, f"found {size} bytes, expected {num_bytes:,}")
        if _sha256(data) != sha256:
            raise _damaged(path, name, "its content is not what was exported (another SHA-256)")
        files[name] = data
    return files


def _tensors(path: Path, name: str, data: bytes | None) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if data is None:
        raise _damaged(path, DESCRIPTION, f"lists no {name}")
    try:
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError) as error:
        raise _damaged(path, name, str(error)) from error
    for tensor, values in tensors.items():
        if not np.isfinite(values).all():
            raise _damaged(path, name, f"{tensor} has values that are NaN or infinite")
    return tensors


def _evidence(entry: dict[str, Any]) -> Evidence:
    thresholds = [
        Threshold(**{**each, "interval": None if each["interval"] is None else tuple(each["interval"])})
        for each in entry["thresholds"]
    ]
    parts = {"curve": Curve(**entry["curve"]), "histogram": Histogram(**entry["histogram"]), "thresholds": thresholds}
    return Evidence(**{**entry, **parts})


def _damaged(path: Path, name: str, fault: str) -> RecipeError:
    return RecipeError(f"{path}/{name}: {fault}: damaged, or changed since the export; {_REMEDY}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
