"""All there is to say about one experiment, and the content of its ``metrics.json``."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wespeaker_qm.evaluate.results import TRAINED, ListResult
from wespeaker_qm.report.loss_card import LossCard
from wespeaker_qm.report.sentences import plain_sentences
from wespeaker_qm.report.training_history import TrainingHistory


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """What is said of a corpus wherever figures of it stand."""

    name: str
    description: str
    caveat: str
    """What the figures must not be taken for, or nothing."""
    headline: str
    """The trial list that counts."""


class Note(NamedTuple):
    """What must not be overlooked, one paragraph."""

    trial_list: str | None
    """Which it is of; None of what the figures of all lists mean."""
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """How the evaluated system was trained."""

    loss: LossCard
    history: TrainingHistory

    def to_json(self) -> dict[str, Any]:
        """Loss and amounts as plain values."""
        return {
            "loss": dataclasses.asdict(self.loss),
            "num_epochs": self.history.num_epochs,
            "num_samples": self.history.num_samples,
            "minutes": self.history.minutes,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All there is to say about one experiment."""

    run: str
    """Name of the run, i.e. of its folder."""
    corpus: CorpusCard
    lists: dict[str, ListResult]
    """Trial list -> figures, for each of its systems; the headline is one of them."""
    training: Training | None
    """None when the embeddings come from elsewhere."""
    notes: list[Note]
    """What must not be overlooked, e.g. of the calibration."""
    baselines: Mapping[str, Path]
    """Baseline -> its folder."""
    provenance: Mapping[str, object]
    """Command, commit, versions."""

    @functools.cached_property
    def summary(self) -> list[str]:
        """What the figures say, in plain sentences."""
        return plain_sentences(self.run, self.lists, self.corpus.headline, self.baselines)

    @property
    def headline_notes(self) -> list[str]:
        """What changes how the headline is to be read: it stands above the figures."""
        return [note.text for note in self.notes if note.trial_list in (None, self.corpus.headline)]

    @property
    def list_notes(self) -> dict[str, list[str]]:
        """Another list -> its notes, which are folded."""
        notes: dict[str, list[str]] = {}
        for name, text in self.notes:
            if name not in (None, self.corpus.headline):
                notes.setdefault(str(name), []).append(text)
        return notes

    def label(self, system: str) -> str:
        """What tables and plots call a system."""
        return f"{self.run} ({TRAINED})" if system == TRAINED and self.training is not None else system

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``. Rates are fractions; null is a figure that the list cannot measure."""
        return {
            "run": self.run,
            "summary": self.summary,
            "corpus": dataclasses.asdict(self.corpus),
            "trial_lists": {name: result.to_json() for name, result in self.lists.items()},
            "training": None if self.training is None else self.training.to_json(),
            "baselines": {name: str(folder) for name, folder in self.baselines.items()},
            "provenance": dict(self.provenance),
            **({"notes": self.headline_notes} if self.headline_notes else {}),
            **({"list_notes": self.list_notes} if self.list_notes else {}),
        }
