"""Table 5: the six losses of the paper on this corpus, beside the paper's figures."""

import logging
from collections.abc import Sequence
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.evaluate.results import Resampling
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.table5 import write_table5
from wespeaker_qm.report.table5_rows import collect, read_table
from wespeaker_qm.score.upstream import refuse_stale
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.utils.calls import AnyPath, paths
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, ExpRoot
from wespeaker_qm.utils.stage import alone, reads_data
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

TABLE = Path("conf/table5.yaml")


@reads_data
def collect_table5(
    *,
    data: AnyPath,
    exp_root: AnyPath | Sequence[AnyPath],
    table: AnyPath = TABLE,
    partial: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> None:
    """Write ``table5.md``, ``.tex`` and ``.json``, ``det_table5.png`` and ``.pdf``, and log the table.

    Args:
        data: a prepared corpus.
        exp_root: folder of the runs; several hold the same runs with other seeds, and the first gets the table.
        table: the rows: loss, run and the paper's figures of each.
        partial: whether rows that were not trained yet are shown as such; False stops at them.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Raises:
        RecipeError: runs are missing, not evaluated, of other trials or not of what is there now; files that no stage
            made; a folder stands twice, or two seeds of a row are one run.
    """
    data, roots = DataFolder(data), [ExpRoot(root) for root in paths(exp_root)]
    if len({root.path.resolve() for root in roots}) < len(roots):
        raise RecipeError(f"--exp_root: found {', '.join(map(str, roots))}, expected each folder of runs once")
    place = roots[0]
    rows = read_table(Path(table))
    written = [place.table5(suffix) for suffix in ("md", "tex", "json")]
    written += [place.det_table5(suffix) for suffix in ("png", "pdf")]
    # report.html is made of the table
    with alone(place.path, written, made_before=place.marker("report").is_file):
        info = CorpusInfo.load(data.info)
        corpus = CorpusCard(name=info.name, description=info.description, caveat=info.caveat, headline=info.headline)
        speakers = {name: read_map(data.set(info.trials[name]).utt2spk) for name in _same_trials(data, info)}
        results = collect(rows, roots, corpus, list(speakers), partial)
        for root in roots:
            for row in rows.rows:
                refuse_stale(root.run(row.run), data, info)
        resampling = Resampling("speaker", num_resamples, seed) if num_resamples else None
        text = write_table5(rows, results, corpus, roots, speakers=speakers, resampling=resampling)
    logger.info("%s", text)
    logger.info("table: %s, plot: %s", place.table5("md"), place.det_table5("png"))


def _same_trials(data: DataFolder, info: CorpusInfo) -> list[str]:
    """The headline list, and the lists of the same trials over other recordings of the same utterances."""
    headline = read_trial_table(data.trials(info.headline))
    others = [name for name in info.trials if name != info.headline]
    return [info.headline, *(name for name in others if read_trial_table(data.trials(name)).same_trials(headline))]
