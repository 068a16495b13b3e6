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
``network``     :class:`~.contents.NetworkCard`: which network, and its sizes
``features``    :class:`~.contents.FeatureCard`: what it is given
``scoring``     :class:`~.contents.ScoringCard`: how embeddings become a score
``calibration`` :class:`wespeaker_qm.score.calibration.Calibration` as an object; null without one
``evidence``    :class:`~.contents.Evidence`: measured on the headline list, with thresholds; null without trials
``training``    what the network was trained on and by whom: plain values, for people
``figures``     the figures of the headline list as in ``metrics.json``, system -> figures; for people
=============== ======================================================================================================

Everything is checked when it is read: sizes and SHA-256 of the files, the description's own, and the fingerprint. Other
files in the folder are let be. No torch is needed.

An ``.onnx`` file of a model holds the same in its metadata, so that it can be used alone: ``model.json`` as text, which
lists no weights, and ``cohort.safetensors`` in base64. Its graph stands for the weights.

Legend: D embedding dimension, C cohort speakers.
"""

import base64
import binascii
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.export.contents import Evidence, FeatureCard, NetworkCard, ScoringCard, evidence_from_json
from wespeaker_qm.export.files import (
    COHORT,
    DESCRIPTION,
    WEIGHTS,
    Read,
    canonical,
    damaged,
    description,
    read_description,
    read_files,
    read_tensors,
    reader,
    safetensors,
)
from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.utils.kinds import check_kinds

_MOST = 10**6
_ENTRIES = ("fingerprint", "network", "features", "scoring", "calibration", "evidence", "training", "figures")
"""Of the description, beside those that tell of it and of the files."""


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
        return cls._parsed(path, reader(path), has_weights=True)

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
                raise damaged(path, name, str(error)) from error

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
    def _parsed(cls, path: Path, read: Read, *, has_weights: bool) -> Self:
        content = read_description(path, read)
        files = read_files(path, content.get("files"), read)
        try:
            weights = read_tensors(path, WEIGHTS, files.get(WEIGHTS)) if has_weights else {}
            cohort = read_tensors(path, COHORT, files[COHORT]) if COHORT in files else {}
            folder = cls(
                path=path,
                fingerprint=content["fingerprint"],
                network=NetworkCard(**content["network"]),
                features=FeatureCard(**content["features"]),
                scoring=ScoringCard(**content["scoring"]),
                calibration=content["calibration"],
                evidence=None if content["evidence"] is None else evidence_from_json(content["evidence"]),
                training=content["training"],
                figures=content["figures"],
                weights=weights,
                mean=cohort.get("mean"),
                cohort=cohort["speakers"].astype(np.float32) if "speakers" in cohort else None,
            )
            folder._check()
            expected = fingerprint(folder.network, folder.features, weights) if has_weights else folder.fingerprint
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise damaged(path, DESCRIPTION, f"not what a model's description holds ({error!r})") from error
        if folder.fingerprint != expected:
            raise damaged(path, DESCRIPTION, "the fingerprint is not that of network, features and weights")
        return folder

    def _check(self) -> None:
        """Refuse what no exporter writes.

        Raises:
            ValueError: values of another kind, or tensors of another size, than everything else says.
        """
        parts = [self.network, self.features, self.scoring, *([] if self.evidence is None else [self.evidence])]
        for part in [*parts, *([] if self.calibration is None else [Calibration(**self.calibration)])]:
            check_kinds(part)
        if not (type(self.fingerprint) is str and 1 <= self.network.embed_dim < _MOST >= self.network.min_frames >= 1):
            raise ValueError("a fingerprint that is no text, or sizes that no network has")
        dim = (self.network.embed_dim,)
        if self.mean is not None and (self.mean.shape != dim or self.mean.dtype.kind != "f"):
            raise ValueError(f"a mean of shape {self.mean.shape}, expected {dim}")
        if self.cohort is not None and (self.cohort.shape[1:] != dim or len(self.cohort) < 2):
            raise ValueError(f"a cohort of shape {self.cohort.shape}, expected (speakers, {dim[0]})")
        if self.scoring.top_n is not None and self.scoring.top_n < 2:
            raise ValueError(f"top_n of {self.scoring.top_n}")
        if self.evidence is not None and min(self.evidence.num_targets, self.evidence.num_nontargets) < 1:
            raise ValueError("a list without targets, or without non-targets")


def fingerprint(network: NetworkCard, features: FeatureCard, weights: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hexadecimal, over everything that changes an embedding."""
    digest = hashlib.sha256(canonical([dataclasses.asdict(network), dataclasses.asdict(features)]))
    for name in sorted(weights):
        value = np.asarray(weights[name], order="C")
        digest.update(canonical([name, value.dtype.str, value.shape]))
        digest.update(value.tobytes())
    return digest.hexdigest()
