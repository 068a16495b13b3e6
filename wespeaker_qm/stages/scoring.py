"""Stage 5: score the trial lists of a corpus by cosine."""

import logging
from collections.abc import Sequence

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score.cohort import has_mean
from wespeaker_qm.score.cosine import load_mean, score_trials
from wespeaker_qm.score.upstream import digests, refuse_stale
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import write_scores
from wespeaker_qm.trials.variants import VARIANTS, discard_variant
from wespeaker_qm.utils.calls import AnyPath, listed
from wespeaker_qm.utils.done import DoneMarker, value_digest
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)


@reads_data
def score(
    *,
    data: AnyPath,
    run: AnyPath,
    trial_lists: Sequence[str] | str | None = None,
    subtract_mean: bool = True,
    text: bool = True,
) -> None:
    """Write ``scores/<list>.score``: the cosine of each trial's embeddings.

    Args:
        data: a prepared corpus.
        run: holds the embeddings of the lists' sets, and their mean.
        trial_lists: names; None for all lists of the corpus.
        subtract_mean: whether the mean embedding of the training set is subtracted first; False gives plain cosines,
            and so does a corpus without training speakers, unless a finished model brings the mean of its own.
        text: False writes the binary ``scores/<list>.score.npz`` alone, which takes a third of the time.

    Raises:
        RecipeError: an unknown list, embeddings that are missing or not of the present weights and audio, files that no
            stage made.
    """
    data, run = DataFolder(data), RunFolder(run)
    info = CorpusInfo.load(data.info)
    names = list(info.trials) if trial_lists is None else listed(trial_lists)
    unknown = [name for name in names if name not in info.trials]
    if unknown:
        raise RecipeError(f"--trials: unknown {', '.join(unknown)}; {data} has {', '.join(info.trials)}")

    refuse_stale(run, data, info, scored=False)
    if subtract_mean and not has_mean(run, info):
        logger.warning("%s: plain cosines, because there are no training speakers whose mean to subtract", run)
        subtract_mean = False
    sources = [f"data/trials/{name}" for name in names] + [f"embeddings/{info.trials[name]}" for name in names]
    sources += ["embeddings/mean_vec.npy"] if subtract_mean else []
    outputs = {name: run.scores(name) for name in names}
    inputs = {"text": text, **digests(sources, run, data)}
    made = [output if text else cache_path(output) for output in outputs.values()]
    others = [path for output in outputs.values() for path in (output, cache_path(output))]
    task = f"score {', '.join(names)}: {value_digest(inputs)}"
    marker = DoneMarker(run.marker("score"), inputs, made, version=STAGE_VERSIONS["score"], checks_outputs=True)
    with stage("score", marker, others=others, task=task) as is_due:
        if not is_due:
            return
        mean = load_mean(run.mean_xvector) if subtract_mean else None
        count = 0
        for name, output in outputs.items():
            trials = read_trial_table(data.trials(name))
            scores = score_trials(trials, run.xvectors(info.trials[name]), mean)
            write_scores(output, trials, scores, text=text)
            count += len(trials)
        logger.info("scored %s of %s -> %s", counted(count, "trial", "trials"), ", ".join(names), run.all_scores)
        for variant in VARIANTS:  # made of older cosines
            discard_variant(run, info.trials, variant)
