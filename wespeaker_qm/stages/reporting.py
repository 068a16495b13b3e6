"""report.html of one run, or of all runs of a corpus."""

import logging
from collections.abc import Sequence
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.report.page import write_report
from wespeaker_qm.report.runs import evaluated_baselines
from wespeaker_qm.report.table5 import read_written
from wespeaker_qm.score.upstream import digests, refuse_stale
from wespeaker_qm.utils.calls import AnyPath, as_path, paths
from wespeaker_qm.utils.done import ABSENT, DoneMarker, file_digest
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.layout import DataFolder, ExpRoot, RunFolder
from wespeaker_qm.utils.shipped import shipped
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)

BASE = Path("conf/resnet34.yaml")


@reads_data
def report(*, data: AnyPath, runs: AnyPath | Sequence[AnyPath] | ExpRoot, base: AnyPath = BASE) -> None:
    """Write ``report.html``: tables, DET curves, threshold explorer, hardest errors, in one file.

    Args:
        data: a prepared corpus.
        runs: evaluated runs; the report goes into the first. Or the folder of the runs of Table 5, with its
            ``table5.json``; it goes there.
        base: configuration that a single run is compared with.

    Raises:
        RecipeError: a run was not evaluated, its figures are of other files than lie there now, or the runs are of
            different trials; Table 5 was not collected; a file that no stage made.
    """
    data = DataFolder(data)
    base = shipped(as_path(base))
    if not base.is_file() and base != BASE:
        raise RecipeError(f"--base {base}: {found_at(base)}; name the configuration to compare with")
    if isinstance(runs, ExpRoot):
        table5 = runs.table5("json")
        if not table5.is_file():
            raise RecipeError(f"{table5}: {found_at(table5)}; collect the runs first (run.sh --table5 true --stage 5)")
        place, systems = RunFolder(runs.path), [runs.run(name) for name in read_written(table5)["runs"]]
    else:
        systems = [RunFolder(run) for run in paths(runs)]
        table5, place = None, systems[0]
    info = CorpusInfo.load(data.info)
    for run in systems:
        refuse_stale(run, data, info)
    inputs = _inputs(data, place, systems, info)
    inputs |= {"base": file_digest(base), "table5": ABSENT if table5 is None else file_digest(table5)}
    output = place.report("html")
    marker = DoneMarker(place.marker("report"), inputs, [output], version=STAGE_VERSIONS["report"], checks_outputs=True)
    with stage("report", marker) as is_due:
        if not is_due:
            return
        write_report(systems, data, output, base=base, table5=table5)
    logger.info("report: %s (%.1f MB)", output, output.stat().st_size / 1e6)


def _inputs(data: DataFolder, place: RunFolder, runs: Sequence[RunFolder], info: CorpusInfo) -> dict[str, object]:
    """Digests of all that a report reads."""
    tables = [f"data/{name}/{table}" for name in info.sets() for table in ("utt2spk", "utt2dur", "wav.scp")]
    trials = [f"data/trials/{name}" for name in info.trials]
    sources = ["data/corpus.yaml", f"audio/{info.trials[info.headline]}", *trials, *tables]
    inputs: dict[str, object] = dict(digests(sources, place, data))
    for number, run in enumerate(runs):
        names = {path.name.removesuffix(".npz") for path in run.all_scores.glob("*.score*")}
        scores = (f"scores/{name}" for name in sorted(names) if name.endswith(".score"))
        files = digests(["metrics.json", "config.yaml", "train_log.jsonl", *scores], run, data)
        inputs |= {f"run {number}: {name}": digest for name, digest in files.items()}
        for name, other in evaluated_baselines(run).items():
            inputs[f"run {number}: {name}"] = digests([f"scores/{other.scores(info.headline).name}"], other, data)
    return inputs
