"""Table 5: the six losses of the paper on this corpus, beside the paper's figures."""

import logging
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.evaluate.results import Resampling
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.table5 import write_table5
from wespeaker_qm.report.table5_rows import collect, read_table
from wespeaker_qm.score.upstream import refuse_stale
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.layout import DataFolder, ExpRoot
from wespeaker_qm.utils.stage import alone, reads_data
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

TABLE = Path("conf/table5.yaml")


@reads_data
def collect_table5(
    *,
    data: AnyPath,
    exp_root: AnyPath,
    table: AnyPath = TABLE,
    partial: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> None:
    """Write ``table5.md``, ``.tex`` and ``.json``, ``det_table5.png`` and ``.pdf``, and log the table.

    Args:
        data: a prepared corpus.
        exp_root: folder of the runs.
        table: the rows: loss, run and the paper's figures of each.
        partial: whether rows that were not trained yet are shown as such; False stops at them.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Raises:
        RecipeError: runs are missing, not evaluated, of other trials or not of what is there now; files that no stage
            made.
    """
    data, exp_root = DataFolder(data), ExpRoot(exp_root)
    rows = read_table(Path(table))
    written = [exp_root.table5(suffix) for suffix in ("md", "tex", "json")]
    written += [exp_root.det_table5(suffix) for suffix in ("png", "pdf")]
    # report.html is made of the table
    with alone(exp_root.path, written, made_before=exp_root.marker("report").is_file):
        info = CorpusInfo.load(data.info)
        corpus = CorpusCard(name=info.name, description=info.description, caveat=info.caveat, headline=info.headline)
        results = collect(rows, exp_root, corpus, partial)
        for row in rows.rows:
            refuse_stale(exp_root.run(row.run), data, info)
        speaker = read_map(data.set(info.trials[info.headline]).utt2spk)
        resampling = Resampling("speaker", num_resamples, seed) if num_resamples else None
        text = write_table5(rows, results, corpus, exp_root, speaker=speaker, resampling=resampling)
    logger.info("%s", text)
    logger.info("table: %s, plot: %s", exp_root.table5("md"), exp_root.det_table5("png"))
