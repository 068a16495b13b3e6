"""What may be set of the corpus mini."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from wespeaker_qm.corpora.settings import Setting, lists_by_name, names
from wespeaker_qm.utils.arguments import COUNT, COUNT_OR_NONE, SAMPLE_RATE_HZ, SECONDS, SEED, true_or_false


@dataclass(frozen=True, kw_only=True)
class MiniSettings:
    """Keys of ``egs/mini/corpus.yaml``; those with a help text are options of ``wespeaker-qm prepare``, too."""

    downloads: Annotated[Path, Setting(Path, "downloaded packages, kept between runs")] = Path("downloads/mini")
    deb_dir: Annotated[Path | None, Setting(Path, "folder of ready .deb files: nothing is downloaded")] = None
    without_tuxpaint: Annotated[
        bool, Setting(true_or_false, "save 161 of 516 MB of download, lose 13 of 69 speakers", is_flag=True)
    ] = False
    packages: Annotated[
        str | None, Setting(str, "only these packages, e.g. klettres-data (40 MB)", metavar="NAME,NAME")
    ] = None
    name: Annotated[str, Setting(str)]
    """Name of the corpus, and of its folder below ``data``."""
    description: Annotated[str, Setting(str)]
    """One line for reports."""
    caveat: Annotated[str, Setting(str)]
    """A sentence shown beside every figure."""
    validation_speakers: Annotated[list[str], Setting(str, from_yaml=names)]
    """Training speakers (of speakers.tsv) set aside for the check while training."""
    sample_rate: Annotated[int, Setting(SAMPLE_RATE_HZ)] = 16000
    """In Hz."""
    min_utterance_s: Annotated[float, Setting(SECONDS)] = 3.5
    """Clips are joined until they are as long as this."""
    max_utterance_s: Annotated[float, Setting(SECONDS)] = 6.0
    """... and cut at this length."""
    max_utterances_per_speaker: Annotated[
        int, Setting(COUNT, "at most so many, spread evenly over sessions and clips", metavar="N")
    ] = 60
    max_eval_utterances_per_session: Annotated[int, Setting(COUNT)] = 22
    """For evaluation, so that a few talkative speakers do not make nearly all target trials."""
    num_babble: Annotated[int, Setting(COUNT_OR_NONE, "mixtures of training speakers", metavar="N")] = 200
    num_rooms: Annotated[int, Setting(COUNT, "simulated rooms, one impulse response each", metavar="N")] = 300
    seed: Annotated[int, Setting(SEED)] = 42
    """Of babble, rooms and channels; the utterances themselves involve no chance."""
    expected: Annotated[dict[str, list[int]], Setting(str, from_yaml=lists_by_name(int))] = field(default_factory=dict)
    """Set -> [speakers, utterances] of the complete corpus; a build that differs says so."""

    @property
    def bad_clips_remedy(self) -> str:
        """What helps where too many clips of the packages cannot be used."""
        return (
            f"Remove {self.downloads / 'unpacked'} and run again, which unpacks the packages anew; or leave out the "
            "package that they are of (--packages, with run.sh in --prepare_opts)"
        )
