"""Beside the stages: the threshold for a wanted false-accept rate, and how sure it is."""

import logging
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import TAR_AT_FAR, THRESHOLD_AT_FAR, wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import OperatingPoint, trials_to_measure
from wespeaker_qm.evaluate.results import ListResult, Resampling
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.report.text import counts, intervals_note, per_cent, show_figure
from wespeaker_qm.trials.systems import read_systems
from wespeaker_qm.utils.calls import AnyPath, listed, optional_path

logger = logging.getLogger(__name__)

_SYSTEM = "scores"


def find_thresholds(
    *,
    score_file: AnyPath,
    fars: float | Sequence[float],
    trials: AnyPath | None = None,
    utt2spk: AnyPath | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> ListResult:
    """Find the threshold of each false-accept rate, and log a line a rate.

    Args:
        score_file: of the system.
        fars: wanted false-accept rates, between 0 and 1; the thresholds' rates are at most these.
        trials: the list that was scored; None takes trials and labels from the score file.
        utt2spk: utterance and speaker a line; None takes the speakers from the folders in the names, if there are any
            and the labels agree, and goes without intervals otherwise.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Raises:
        RecipeError: the score file is broken, or does not hold the trials; an utterance has no speaker.
    """
    rates = listed(fars)
    resampling = Resampling("speaker", num_resamples, seed) if num_resamples else None
    table, scores, speakers = read_systems(
        {_SYSTEM: Path(score_file)},
        optional_path(trials),
        optional_path(utt2spk),
        with_speakers=resampling is not None,
    )
    result = evaluate_systems(
        table,
        scores,
        {_SYSTEM: wanted_figures(fars=rates, tars=(), p_targets=())},
        speakers,
        resampling=resampling,
        progress="intervals",
    )
    header = ["FAR at most", "threshold", "FAR %", "TAR %", "false accepts"]
    rows = [_row(result, far) for far in dict.fromkeys(rates)]
    logger.info("%s.\n\n%s\n\n%s", counts(result), markdown_table(header, rows), intervals_note(result))
    logger.info(
        "Accept a trial when its score is at least the threshold. It was chosen on these trials: on others the "
        "false-accept rate is another; mind the interval, and leave room for it."
    )
    return result


def _row(result: ListResult, far: float) -> list[str]:
    system = result.systems[_SYSTEM]
    figure, threshold = Figure(TAR_AT_FAR, far), Figure(THRESHOLD_AT_FAR, far)
    point = system.readings[figure]
    tar = show_figure(figure, system.value(figure), system.sureness(figure))
    if not isinstance(point, OperatingPoint):
        return [figure.rate_name, tar, "", "", f"takes {trials_to_measure(far):,} non-target trials"]
    return [
        figure.rate_name,
        show_figure(threshold, point.threshold, system.sureness(threshold)),
        _far_per_cent(point.far, far),
        tar,
        f"{point.false_accepts:,} of {result.num_nontargets:,}",
    ]


def _far_per_cent(far: float, most: float) -> str:
    """A false-accept rate in per cent: four decimals, more where three digits or the limit ``most`` take them.

    >>> _far_per_cent(1 / 99, 0.0102), _far_per_cent(1.49e-7, 1e-6), _far_per_cent(0.0, 1e-3)
    ('1.0101', '0.0000149', '0.0000')
    >>> _far_per_cent(0.012345678, 0.01234568)  # 1.2346 would be above the limit
    '1.234568'
    """
    digits = max(4, -math.floor(math.log10(far))) if far > 0 else 4
    while digits < 17 and Decimal(per_cent(far, digits)) > 100 * Decimal(repr(most)):
        digits += 1
    return per_cent(far, digits)
