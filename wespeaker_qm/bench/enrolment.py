"""How long it takes to find one of many enrolled speakers.

The model is random: what a search costs does not depend on what embeddings mean. The network is left out; it takes what
``wespeaker-qm embed`` takes.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.bench.machine import machine_facts
from wespeaker_qm.bench.timing import in_turn, quartiles
from wespeaker_qm.enrolment.records import Voice
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.export.contents import FeatureCard, NetworkCard, ScoringCard
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.files import scratch_folder
from wespeaker_qm.utils.progress import Progress

DIM = 256
COHORT_SPEAKERS = 6000
TOP_N = 300


class _NoNetwork:
    """Embeddings are given."""

    sample_rate, embed_dim = 16000, DIM
    max_frames: int | None = None

    def embed(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Not asked for."""
        raise NotImplementedError


def random_embedding(number: int) -> NDArray[np.float32]:
    """(256,) the embedding of recording ``number``, at least 0."""
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


def random_model(num_cohort_speakers: int = COHORT_SPEAKERS) -> Speaker:
    """A model that scores with AS-norm against random speakers, and has no network."""
    rng = np.random.default_rng([0, 1])
    folder = ModelFolder(
        path=Path("random"),
        fingerprint="0" * 64,
        network=NetworkCard(encoder="ResNet34", arguments={}, embed_dim=DIM, min_frames=1),
        features=FeatureCard(
            sample_rate=16000, num_mel_bins=80, frame_length_ms=25, frame_shift_ms=10, trim_silence=False
        ),
        scoring=ScoringCard(normalisation="asnorm", top_n=TOP_N, largest_change=0.0),
        calibration=None,
        evidence=None,
        training={},
        figures={},
        weights={},
        mean=rng.standard_normal(DIM).astype(np.float32),
        cohort=rng.standard_normal((num_cohort_speakers, DIM)).astype(np.float32),
    )
    return Speaker(folder, _NoNetwork())


def identification_report(num_speakers: int, rounds: int) -> str:
    """Fill a store in a temporary folder, time what is done with it, and say so in Markdown.

    Args:
        num_speakers: enrolled, with a recording each.
        rounds: times that each is timed.
    """
    model = random_model()
    forgotten = itertools.count()
    with scratch_folder("wespeaker_qm_bench") as folder:
        store = SpeakerStore(folder / "speakers.sqlite")
        numbers = itertools.count()

        def newcomer() -> tuple[str, list[Voice]]:
            number = next(numbers)
            return f"speaker {number}", [Voice(f"{number}.wav", 1.0, random_embedding(number))]

        with Progress(range(num_speakers), desc="enrolling", unit="speaker") as bar:
            store.enrol_many((newcomer() for _ in bar), model)
        num_bytes = store.path.stat().st_size
        (test,) = newcomer()[1]
        times_ms = in_turn(
            {
                "identify, in a program that has just started": lambda: SpeakerStore(store.path).nearest(test, model),
                "enrol a recording": lambda: store.enrol_voices(*newcomer(), model),
                "identify, after that": lambda: store.nearest(test, model),
                "identify, again": lambda: store.nearest(test, model),
                "forget a speaker": lambda: store.forget(f"speaker {next(forgotten)}"),
            },
            rounds,
        )
    cells = [[name, *(f"{value:.1f}" for value in quartiles(each))] for name, each in times_ms.items()]
    table = markdown_table(["", "lower quartile, ms", "median", "upper quartile"], cells)
    facts = [
        *machine_facts(),
        f"- {counted(num_speakers, 'speaker', 'speakers')} of one recording ({num_bytes / 1e6:.0f} MB), {DIM} values, "
        f"AS-norm against {COHORT_SPEAKERS:,} speakers, without the time that the network takes for the recording",
    ]
    return "\n".join([*facts, "", table])
