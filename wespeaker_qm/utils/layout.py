"""The names of all files and folders of a prepared corpus and of a run, in one place.

::

    data/<corpus>/                 DataFolder                exp/<corpus>/<run>/         RunFolder
      corpus.yaml                    what the corpus is         config.yaml                as resolved for the training
      trials/<list>                  trial lists                models/model_<epoch>.pt    with avg_model.pt
      <set>/                         SetFolder                  resume/ train_log.jsonl
        wav.scp utt2spk utt2dur        Kaldi's tables           embeddings/<set>/          xvector.scp and .ark
        shards/ shard.list             the packed audio         scores/<list>.score
      .done/<stage>                  markers                    metrics.json report.*      the evaluation
                                                                model/ model.zip           what was trained, to be used
                                                                .done/<stage> log/         markers, logs

These classes join names and look at no file: whether one is there, and what is in it, is for the stages to say.
"""

import dataclasses
from pathlib import Path

from wespeaker_qm.utils.calls import AnyPath, as_path

LATEST_MODEL = Path("exp/latest_model")
"""Where stage 8 notes which model folder it has made last, from the folder of run.sh."""


@dataclasses.dataclass(frozen=True, init=False)
class Folder:
    """A folder that stages write into; wherever Python expects a path, it stands for that of the folder."""

    path: Path

    def __init__(self, path: AnyPath) -> None:
        object.__setattr__(self, "path", as_path(path))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def marker(self, stage: str) -> Path:
        """What says that a stage is done, and with which inputs (:mod:`wespeaker_qm.utils.done`)."""
        return self.path / ".done" / stage

    def log(self, subcommand: str) -> Path:
        """Where run.sh lets a subcommand append its log lines."""
        return self.path / "log" / f"{subcommand}.log"


class SetFolder(Folder):
    """``data/<corpus>/<set>``: a Kaldi directory, and its audio once it is packed."""

    @property
    def wav_scp(self) -> Path:
        """Utterance, or recording where there are segments -> audio."""
        return self.path / "wav.scp"

    @property
    def segments(self) -> Path:
        """Utterance -> recording, first and last second; of some corpora."""
        return self.path / "segments"

    @property
    def utt2spk(self) -> Path:
        """Utterance -> speaker."""
        return self.path / "utt2spk"

    @property
    def spk2utt(self) -> Path:
        """Speaker -> utterances: the same the other way round."""
        return self.path / "spk2utt"

    @property
    def utt2dur(self) -> Path:
        """Utterance -> seconds."""
        return self.path / "utt2dur"

    @property
    def bad_audio(self) -> Path:
        """Recordings that packing left out, with reasons."""
        return self.path / "bad_audio.tsv"

    @property
    def shards(self) -> Path:
        """Folder of the tars."""
        return self.path / "shards"

    @property
    def shard_list(self) -> Path:
        """Paths of the tars, one a line."""
        return self.path / "shard.list"


class DataFolder(Folder):
    """``data/<corpus>``: a prepared corpus."""

    @property
    def info(self) -> Path:
        """``corpus.yaml`` (:class:`wespeaker_qm.corpus.info.CorpusInfo`)."""
        return self.path / "corpus.yaml"

    @property
    def wav(self) -> Path:
        """Folder of the audio that preparing made."""
        return self.path / "wav"

    @property
    def bad_audio(self) -> Path:
        """Recordings that the preparation left out, with reasons."""
        return self.path / "bad_audio.tsv"

    @property
    def bad_noise(self) -> Path:
        """Noises and music likewise."""
        return self.path / "bad_noise.tsv"

    def trials(self, trial_list: str) -> Path:
        """A trial list."""
        return self.path / "trials" / trial_list

    def set(self, name: str) -> SetFolder:
        """One of the Kaldi directories."""
        return SetFolder(self.path / name)


class RunFolder(Folder):
    """``exp/<corpus>/<run>``: what one system was trained to, and what came of it."""

    @property
    def name(self) -> str:
        """As reports call the run."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """The configuration as resolved for the training."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Command, versions and machine of the training."""
        return self.path / "provenance.json"

    @property
    def training_log(self) -> Path:
        """A record a line: steps, epochs, validations."""
        return self.path / "train_log.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def trackers(self) -> Path:
        """Folder of what the trackers of the training know it by."""
        return self.path / "trackers"

    def tracker(self, name: str) -> Path:
        """By what a tracker knows it: one line."""
        return self.trackers / f"{name}.txt"

    @property
    def traces(self) -> Path:
        """Folder of traces of some steps, which ``profile`` asks for."""
        return self.path / "profile"

    def trace(self, rank: int) -> Path:
        """The trace of one of the processes that train."""
        return self.traces / f"process_{rank}.json.gz"

    @property
    def models(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "models"

    def model(self, epoch: int) -> Path:
        """Weights after an epoch, counted from 1."""
        return self.models / f"model_{epoch}.pt"

    @property
    def average(self) -> Path:
        """Mean weights of the last checkpoints."""
        return self.models / "avg_model.pt"

    @property
    def states(self) -> Path:
        """Folder of the states of the training: all that it needs to go on, after one update or another."""
        return self.path / "resume"

    def state(self, step: int) -> Path:
        """The state after so many updates."""
        return self.states / f"step_{step}.pt"

    @property
    def earlier_states(self) -> tuple[Path, ...]:
        """Where earlier versions kept the state after the last epoch, the newest of them first."""
        return (self.path / "resume.pt", self.models / "resume.pt")

    @property
    def embeddings(self) -> Path:
        """Folder of the embeddings."""
        return self.path / "embeddings"

    def xvectors(self, set_name: str) -> Path:
        """Kaldi scp of a set's embeddings; the ark lies beside it."""
        return self.embeddings / set_name / "xvector.scp"

    def bandwidths(self, set_name: str) -> Path:
        """Utterance -> highest frequency that its recording holds, in Hz; of the sets of trials."""
        return self.embeddings / set_name / "utt2bandwidth"

    def speaker_xvectors(self, set_name: str) -> Path:
        """Kaldi scp of the mean embeddings of a set's speakers."""
        return self.embeddings / set_name / "spk_xvector.scp"

    @property
    def adopted_cohort(self) -> Path:
        """Kaldi scp of the mean embeddings of training speakers that came with a finished model (run.sh --model)."""
        return self.xvectors("adopted_cohort")

    @property
    def adopted_calibration(self) -> Path:
        """The calibration that came with a finished model."""
        return self.models / "calibration.json"

    @property
    def mean_xvector(self) -> Path:
        """Mean embedding of the training set."""
        return self.embeddings / "mean_vec.npy"

    @property
    def all_scores(self) -> Path:
        """Folder of the score files."""
        return self.path / "scores"

    def scores(self, trial_list: str, variant: str = "") -> Path:
        """Score file of a list: cosines, or what a later stage made of them (``asnorm``, ``snorm``, ``calibrated``)."""
        return self.all_scores / f"{trial_list}{variant and '.'}{variant}.score"

    @property
    def calibration(self) -> Path:
        """The model that turns scores into log-likelihood ratios."""
        return self.all_scores / "calibration.json"

    @property
    def metrics(self) -> Path:
        """All figures of the evaluation."""
        return self.path / "metrics.json"

    def report(self, suffix: str) -> Path:
        """``report.md``, ``report.tex`` or ``report.html``."""
        return self.path / f"report.{suffix}"

    def det(self, suffix: str) -> Path:
        """DET curves, as ``png`` or ``pdf``."""
        return self.path / f"det.{suffix}"

    @property
    def training_curves(self) -> Path:
        """Figure of the training."""
        return self.path / "training.png"

    @property
    def model_folder(self) -> Path:
        """Folder of all that turns recordings into decisions (:mod:`wespeaker_qm.export.folder`)."""
        return self.path / "model"

    def onnx(self, kind: str = "") -> Path:
        """The model as one ``.onnx`` file, in its folder; ``int8`` is that with convolutions in 8 bits."""
        return self.model_folder / f"model{kind and '.'}{kind}.onnx"

    @property
    def int8_card(self) -> Path:
        """The card of the file with convolutions in 8 bits."""
        return self.onnx("int8").with_suffix(".md")

    @property
    def model_zip(self) -> Path:
        """The same in one file."""
        return self.path / "model.zip"

    @property
    def untrained(self) -> "RunFolder":
        """The baseline that is a network like this with random weights."""
        return RunFolder(self.path / "untrained")

    @property
    def initial(self) -> "RunFolder":
        """The baseline that is the network which the training began with (``model_init``)."""
        return RunFolder(self.path / "initial")

    @property
    def origin(self) -> Path:
        """Of a fine-tuned model: which one it was before, and what is known of the training of that."""
        return self.path / "fine_tuned_from.json"

    @property
    def given(self) -> "RunFolder":
        """The model that is fine-tuned, laid out as a run, with its embeddings and scores of the new recordings."""
        return RunFolder(self.path / "given")

    @property
    def before(self) -> "RunFolder":
        """The baseline that is the scores of the model as it came, normalised as it normalises."""
        return RunFolder(self.path / "before")

    def at_epoch(self, epoch: int) -> "RunFolder":
        """Embeddings and scores of the checkpoint of one epoch."""
        return RunFolder(self.path / self.model(epoch).stem)


class ExpRoot(Folder):
    """``exp/<corpus>``: the runs of a corpus, what they share, and Table 5."""

    def run(self, name: str) -> RunFolder:
        """One of the runs."""
        return RunFolder(self.path / name)

    @property
    def ltas(self) -> RunFolder:
        """The baseline of long-term average spectra, which no training changes."""
        return self.run("ltas")

    @property
    def baselines(self) -> Path:
        """Folder of the embeddings that several runs copy: each folder in it is named by what they depend on."""
        return self.path / "baselines"

    def table5(self, suffix: str) -> Path:
        """``table5.md``, ``table5.tex`` or ``table5.json``."""
        return self.path / f"table5.{suffix}"

    def det_table5(self, suffix: str) -> Path:
        """DET curves of the table's rows, as ``png`` or ``pdf``."""
        return self.path / f"det_table5.{suffix}"
