"""What may be set of the corpus folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from wespeaker_qm.corpora.settings import Setting, names
from wespeaker_qm.utils.arguments import COUNT, COUNT_OR_NONE, FRACTION, SECONDS, SEED, fraction_or_count


def _speakers(value: Any) -> str | float | list[str]:
    return names(value) if isinstance(value, list | dict) else value


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """Keys of ``egs/folder/corpus.yaml`` and options of ``wespeaker-qm prepare``."""

    audio_root: Annotated[Path | None, Setting(Path, "the tree speaker/.../utterance.{wav,flac,ogg,opus,mp3,m4a}")] = (
        None
    )
    eval_speakers: Annotated[
        str | float | list[str],
        Setting(
            str,
            "speakers to evaluate, who never train: a fraction of all (at least 2 are drawn), how many (a whole "
            "number), names separated by commas, a file with one name a line, KofN (e.g. 1of5) for the K-th of N "
            "parts, which take turns in a cross-validation, or all, to evaluate a finished model (run.sh --model)",
            from_yaml=_speakers,
        ),
    ] = "0.25"
    valid_speakers: Annotated[
        float,
        Setting(
            fraction_or_count,
            "fraction of the other speakers set aside for the check while training, or how many (a whole number from 2 "
            "on); when a fraction is fewer than 2, there is no check",
        ),
    ] = 0.1
    min_duration: Annotated[float, Setting(SECONDS, "shorter recordings, in s, are refused")] = 0.5
    max_bad_fraction: Annotated[
        float,
        Setting(
            FRACTION,
            "fraction of the recordings that may be refused (unreadable, silent, too short, the same twice) and left "
            "out; more stops the stage",
        ),
    ] = 0.0
    max_trials: Annotated[
        int, Setting(COUNT, "targets, and non-targets, of a trial list; of more a sample is drawn")
    ] = 200_000
    noise: Annotated[
        str,
        Setting(
            str,
            "noises and music beside babble of the training speakers: 'debian' downloads two packages (232 MB) as "
            "egs/mini does, 'babble' takes none, anything else is a tree of audio files in which a folder 'music' "
            "holds music",
        ),
    ] = "debian"
    downloads: Annotated[Path, Setting(Path, "packages of --noise debian")] = Path("downloads/mini")
    num_babble: Annotated[int, Setting(COUNT_OR_NONE, "mixtures of training speakers")] = 200
    num_rooms: Annotated[int, Setting(COUNT, "simulated rooms")] = 300
    seed: Annotated[int, Setting(SEED, "of all draws")] = 42
