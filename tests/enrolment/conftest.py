"""A store, and recordings for it that need no audio."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.enrolment.records import Voice
from wespeaker_qm.enrolment.store import SpeakerStore


@pytest.fixture
def store(tmp_path: Path) -> SpeakerStore:
    return SpeakerStore(tmp_path / "speakers.sqlite")


@pytest.fixture
def voices() -> Callable[..., list[Voice]]:
    """Function: recordings of one speaker, a number."""

    def make(speaker: int, count: int = 1, first: int = 0, dim: int = 24) -> list[Voice]:
        centre = np.random.default_rng(speaker).normal(size=dim) * 3
        made = []
        for take in range(first, first + count):
            noise = np.random.default_rng([speaker, take]).normal(size=dim)
            embedding = (centre + 0.3 * noise).astype(np.float32)
            made.append(Voice(f"s{speaker}-{take}.wav", 1.5 + take, embedding))
        return made

    return make
