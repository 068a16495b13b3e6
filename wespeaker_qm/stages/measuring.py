"""Beside the stages: figures of score files of any origin."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import FARS, P_TARGETS, TARS
from wespeaker_qm.evaluate.results import ListResult, Resampling, Unit
from wespeaker_qm.report.tables import figures_table
from wespeaker_qm.report.text import counts, intervals_note
from wespeaker_qm.trials.systems import read_systems
from wespeaker_qm.utils.calls import AnyPath, listed, optional_path, paths
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import refuse_plots, write_json

logger = logging.getLogger(__name__)

UNITS: tuple[Unit, ...] = get_args(Unit)


def measure(
    *,
    score_files: AnyPath | Sequence[AnyPath],
    trials: AnyPath | None = None,
    utt2spk: AnyPath | None = None,
    fars: float | Sequence[float] = FARS,
    tars: float | Sequence[float] = TARS,
    p_targets: float | Sequence[float] = P_TARGETS,
    are_llrs: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    by: Unit = "speaker",
    det: AnyPath | None = None,
    json: AnyPath | None = None,
) -> ListResult:
    """Measure systems on the same trials, and log the table.

    Args:
        score_files: of each system.
        trials: the list that was scored; None takes trials and labels from the first score file.
        utt2spk: utterance and speaker a line; None takes the speakers from the folders in the names, if there are any
            and the labels agree, and goes without intervals otherwise.
        fars: false-accept rates at which true accepts are measured (TAR at FAR), between 0 and 1.
        tars: true-accept rates at which false ones are (FAR at TAR), between 0 and 1.
        p_targets: priors of the detection cost, between 0 and 1.
        are_llrs: whether scores are natural log-likelihood ratios; adds Cllr and actDCF.
        num_resamples: for the intervals; 0 for none, or at least 2.
        seed: of the resamples.
        by: what is drawn; intervals over trials are too narrow, and there to show it.
        det: draw the DET curves into ``<det>.png`` and ``<det>.pdf``.
        json: write all figures to this file, rates as fractions.

    Raises:
        RecipeError: a score file is broken or stands twice, they do not hold the same trials, an utterance has no
            speaker; ``by`` is neither; ``det`` or ``json`` name files that are not of this program.
    """
    if by not in UNITS:
        raise RecipeError(f"by: found {by!r}, expected one of {', '.join(UNITS)}")
    systems = paths(score_files)
    names = [str(path) for path in systems]
    if len(set(names)) < len(names):
        raise RecipeError("a score file stands twice on the command line, expected each once")
    resampling = Resampling(by, num_resamples, seed) if num_resamples else None
    files = dict(zip(names, systems, strict=True))
    over_speakers = resampling is not None and by == "speaker"
    table, scores, speakers = read_systems(
        files, optional_path(trials), optional_path(utt2spk), with_speakers=over_speakers
    )
    wanted = wanted_figures(fars=listed(fars), tars=listed(tars), p_targets=listed(p_targets), is_llr=are_llrs)
    result = evaluate_systems(
        table, scores, dict.fromkeys(scores, wanted), speakers, resampling=resampling, progress="intervals"
    )
    logger.info("%s.\n\n%s\n\n%s", counts(result), figures_table(result.systems), intervals_note(result))
    if json is not None:
        write_json(Path(json), result.to_json())
    if det is not None:
        _draw(result, Path(det))
    return result


def _draw(result: ListResult, path: Path) -> None:
    from wespeaker_qm.report.det_plot import det_plot, distinct_curves
    from wespeaker_qm.report.plotting import save_plot

    curves = {name: system.roc for name, system in result.systems.items()}
    band = next(iter(result.systems.values())).band
    files = [Path(f"{path}.{suffix}") for suffix in ("png", "pdf")]
    refuse_plots(files)
    save_plot(det_plot(distinct_curves(curves), path.name, counts(result), band), files)
    logger.info("DET curves: %s", ", ".join(map(str, files)))
