"""``corpus.yaml`` of a prepared corpus: what the stages after preparation must know, and all they know."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from wespeaker_qm.trials.variants import VARIANTS
from wespeaker_qm.utils.errors import RecipeError, found_at, nearest, shown
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.yaml_files import dump_yaml, read_yaml_mapping


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """Names of the Kaldi directories and trial lists below ``data/<corpus>/``."""

    name: str
    """Short name, e.g. ``mini``."""
    description: str = ""
    """One line for reports."""
    caveat: str = ""
    """A sentence shown beside every figure, or nothing."""
    licence: str = ""
    """Of the recordings, for the card of a model that is trained on them; empty where it is not known."""
    train: str | None = "train"
    """Kaldi directory of the training speakers; null for a corpus that finished models are evaluated on, no more."""
    trials: dict[str, str] = field(default_factory=dict)
    """Trial list (``trials/<list>``) -> the Kaldi directory that it draws from."""
    headline: str
    """The trial list whose figures stand first."""
    validation: str | None = None
    """Trial list ``trials/<validation>`` over the Kaldi directory of the same name, for checks while training."""
    noise: str | None = None
    """Kaldi directory of noises (``utt2spk`` = noise, music or speech)."""
    rirs: str | None = None
    """Kaldi directory of room impulse responses."""

    def __post_init__(self) -> None:
        """Check that the headline is one of the trial lists, and that no two lists share a file."""
        if self.headline not in self.trials:
            raise RecipeError(
                f"corpus {self.name}: headline {shown(self.headline)} is none of the trial lists {list(self.trials)}"
            )
        for name in self.trials:
            plain, _, variant = name.rpartition(".")
            if variant in VARIANTS and plain in self.trials:
                raise RecipeError(
                    f"corpus {self.name}: the scores of the trial list {shown(name)} and the {variant} scores of "
                    f"{shown(plain)} would be one file; rename one list (in corpus.yaml, and its file in trials/)"
                )
        if self.validation is not None and self.trials.get(self.validation, self.validation) != self.validation:
            raise RecipeError(
                f"corpus {self.name}: the list {shown(self.validation)} is over "
                f"{shown(self.trials[self.validation])} as a trial list, and over {shown(self.validation)} as "
                "validation list; rename one (in corpus.yaml and in trials/)"
            )

    @classmethod
    def load(cls, path: Path | str) -> "CorpusInfo":
        """Read ``corpus.yaml``, or the one in the folder ``path``.

        Raises:
            RecipeError: no such file, not a mapping, an unknown or missing key, or a value that is no text.
        """
        path = Path(path)
        if path.is_dir():
            path /= "corpus.yaml"
        if not path.is_file():
            raise RecipeError(f"{path}: {found_at(path)}; prepare the data first (run.sh --stage 1)")
        values = read_yaml_mapping(path)
        names = [entry.name for entry in dataclasses.fields(cls)]
        optional = [entry.name for entry in dataclasses.fields(cls) if entry.type == (str | None)]
        for key in values:
            if key not in names:
                raise RecipeError(f"{path}: unknown key {shown(key)}; nearest: {nearest(key, names)}")
        for key in ("name", "headline", "trials"):
            if key not in values:
                raise RecipeError(f"{path}: key {key!r} is missing; prepare the data again (run.sh --stage 1)")
        for key, value in values.items():
            is_right = isinstance(value, str) or (value is None and key in optional)
            expected = "text"
            if key == "trials":
                is_right = isinstance(value, dict) and all(isinstance(text, str) for text in (*value, *value.values()))
                expected = "trial lists, each with the name of its Kaldi directory"
            if not is_right:
                raise RecipeError(f"{path}: {key}: found {shown(value)}, expected {expected}")
        return cls(**values)

    def save(self, path: Path | str) -> None:
        """Write ``corpus.yaml`` (atomically: its presence says that the corpus is complete)."""
        write_text(path, dump_yaml(dataclasses.asdict(self)))

    def training_set(self, path: Path) -> str:
        """The Kaldi directory of the training speakers; ``path`` is where this was read.

        Raises:
            RecipeError: there are none.
        """
        if self.train is None:
            raise RecipeError(
                f"{path}: names no training set (train: null), so there is nothing to train on; evaluate a finished "
                "model on this corpus (run.sh --model), or keep speakers for training (egs/folder: --eval_speakers)"
            )
        return self.train

    def sets(self) -> list[str]:
        """The Kaldi directories to pack: training, evaluation, validation, noise, impulse responses; each once."""
        names = [self.train, *self.trials.values(), self.validation, self.noise, self.rirs]
        return list(dict.fromkeys(name for name in names if name is not None))


def prepared_files(data: DataFolder) -> list[Path]:
    """What must lie in a prepared corpus: ``corpus.yaml`` and, once it is there, what it names: tables and lists."""
    try:
        info = CorpusInfo.load(data.info)
    except RecipeError:  # not there, or not ours
        return [data.info]
    lists = [*info.trials, *([info.validation] if info.validation is not None else [])]
    tables = [path for name in info.sets() for path in (data.set(name).wav_scp, data.set(name).utt2spk)]
    return [data.info, *tables, *dict.fromkeys(map(data.trials, lists))]
