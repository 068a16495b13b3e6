"""The figures: a row of ``KINDS`` is all that there is to one.

Tables, intervals, comparisons and ``metrics.json`` go through the rows, so that another figure is another row, and no
other line of code.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.figure import Compared, Curves, Figure, FigureKind, Quantity, Reading
from wespeaker_qm.evaluate.influence import Influence
from wespeaker_qm.evaluate.log_likelihood import act_dcf, bayes_threshold, min_cllr
from wespeaker_qm.evaluate.operating_points import (
    FARS,
    P_TARGETS,
    TARS,
    best_at_far,
    equal_error_rate,
    far_at_tar,
    is_measurable,
    min_dcf,
)
from wespeaker_qm.evaluate.scales import LINEAR, LOG, LOGIT


def _eer_threshold(curves: Curves, rate: float) -> float:
    return equal_error_rate(curves.roc).threshold


def _eer_influence(parts: Influence, threshold: float, rate: float) -> NDArray[np.float64]:
    slope = parts.slope(threshold)
    return (slope * parts.nu(threshold) - parts.tau(threshold)) / (1 + slope)


def _far_influence(parts: Influence, threshold: float, tar: float) -> NDArray[np.float64]:
    return parts.nu(threshold) - parts.tau(threshold) / max(parts.slope(threshold), 1e-12)


def _dcf_influence(parts: Influence, threshold: float, p_target: float) -> NDArray[np.float64]:
    moved = (1 - p_target) * parts.nu(threshold) - p_target * parts.tau(threshold)
    return moved / min(p_target, 1 - p_target)


EER = FigureKind(
    name="EER",
    title="EER %",
    key="eer",
    quantity=Quantity.RATE,
    read=lambda curves, _: equal_error_rate(curves.roc),
    field="rate",
    threshold=_eer_threshold,
    influence=_eer_influence,
    scale=LOGIT,
    compared=Compared.REPORTED,
    in_papers=True,
    digits=2,
)
EER_HULL = FigureKind(
    name="EER hull",
    title="EER % on the convex hull",
    key="eer_hull",
    quantity=Quantity.RATE,
    read=lambda curves, _: equal_error_rate(curves.hull).rate,
    threshold=_eer_threshold,
    influence=_eer_influence,
    scale=LOGIT,
    compared=Compared.ON_REQUEST,
    digits=2,
)
MIN_CLLR = FigureKind(
    name="minCllr",
    title="minCllr",
    key="min_cllr",
    quantity=Quantity.LLR_COST,
    read=lambda curves, _: min_cllr(curves.hull),
    threshold=_eer_threshold,
    influence=lambda parts, *_: parts.min_cllr(),
    scale=LOGIT,
    compared=Compared.STORED,
    digits=3,
)
MIN_DCF = FigureKind(
    name="minDCF",
    title="minDCF",
    key="min_dcf",
    quantity=Quantity.COST,
    read=lambda curves, p_target: min_dcf(curves.cost_points, p_target),
    field="cost",
    rate_of="p_target",
    threshold=lambda curves, p_target: min_dcf(curves.cost_points, p_target).threshold,
    influence=_dcf_influence,
    scale=LOGIT,
    compared=Compared.STORED,
    in_papers=True,
    digits=3,
)
TAR_AT_FAR = FigureKind(
    name="TAR@FAR",
    title="TAR % at FAR",
    key="tar_at_far",
    quantity=Quantity.RATE,
    read=lambda curves, far: best_at_far(curves.roc, far),
    field="tar",
    rate_of="far",
    threshold=lambda curves, far: best_at_far(curves.roc, far).threshold,
    influence=lambda parts, threshold, _: parts.tau(threshold) - parts.slope(threshold) * parts.nu(threshold),
    scale=LOGIT,
    is_measurable=is_measurable,
    more_is_better=True,
    compared=Compared.REPORTED,
    in_papers=True,
    digits=2,
)
THRESHOLD_AT_FAR = FigureKind(
    name="threshold@FAR",
    title=None,
    key=None,
    quantity=Quantity.THRESHOLD,
    read=lambda curves, far: best_at_far(curves.roc, far),
    field="threshold",
    rate_of="far",
    threshold=lambda curves, far: best_at_far(curves.roc, far).threshold,
    influence=lambda parts, threshold, _: parts.nu(threshold),  # up to a factor, which cancels
    rests_on=("non_target",),
    scale=LINEAR,
    is_measurable=is_measurable,
    compared=Compared.NOWHERE,  # each system has its own scale of scores
    digits=6,
)
FAR_AT_TAR = FigureKind(
    name="FAR@TAR",
    title="FAR % at TAR",
    key="far_at_tar",
    quantity=Quantity.RATE,
    read=lambda curves, tar: far_at_tar(curves.roc, tar),
    field="far",
    rate_of="tar",
    threshold=lambda curves, tar: far_at_tar(curves.roc, tar).threshold,
    influence=lambda parts, threshold, _: (
        parts.nu(threshold) - parts.tau(threshold) / max(parts.slope(threshold), 1e-12)
    ),
    scale=LOGIT,
    compared=Compared.STORED,
    digits=3,
)
CLLR = FigureKind(
    name="Cllr",
    title="Cllr",
    key="cllr",
    quantity=Quantity.LLR_COST,
    read=lambda curves, _: math.nan if curves.cllr is None else curves.cllr,
    threshold=lambda *_: None,
    influence=lambda parts, *_: parts.cllr(),
    scale=LOG,
    needs_llr=True,
    compared=Compared.NOWHERE,  # calibration can be put right afterwards: no difference of the systems
    digits=3,
)
ACT_DCF = FigureKind(
    name="actDCF",
    title="actDCF",
    key="act_dcf",
    quantity=Quantity.LLR_COST,
    read=lambda curves, p_target: act_dcf(curves.roc, p_target),
    rate_of="p_target",
    threshold=lambda _, p_target: bayes_threshold(p_target),
    fixed_threshold=bayes_threshold,
    influence=_dcf_influence,
    scale=LOG,
    needs_llr=True,
    compared=Compared.NOWHERE,
    digits=3,
)
KINDS = (EER, EER_HULL, MIN_CLLR, MIN_DCF, TAR_AT_FAR, THRESHOLD_AT_FAR, FAR_AT_TAR, CLLR, ACT_DCF)
"""All figures, in the order of ``metrics.json``."""


def wanted_figures(
    *,
    fars: Iterable[float] = FARS,
    tars: Iterable[float] = TARS,
    p_targets: Iterable[float] = P_TARGETS,
    is_llr: bool = False,
) -> tuple[Figure, ...]:
    """All figures at some rates; a rate that stands twice is taken once.

    Args:
        fars: false-accept rates.
        tars: true-accept rates.
        p_targets: prior probabilities of a target.
        is_llr: scores are log-likelihood ratios, so that Cllr and actDCF make sense.

    >>> [figure.name for figure in wanted_figures(fars=(0.1, 0.10), tars=(), p_targets=())]
    ['EER', 'EER hull', 'minCllr', 'TAR@FAR 1e-1', 'threshold@FAR 1e-1']
    """
    rates: dict[str | None, Iterable[float | None]] = {None: (None,)}
    for rate_of, wanted in (("far", fars), ("tar", tars), ("p_target", p_targets)):
        rates[rate_of] = dict.fromkeys(map(float, wanted))
    return tuple(Figure(kind, rate) for kind in KINDS if is_llr or not kind.needs_llr for rate in rates[kind.rate_of])


def figure_named(text: str) -> Figure | None:
    """The figure that is called so, however its rate is spelt; None where there is none of that name.

    >>> figure_named("TAR@FAR 0.0010") == Figure(TAR_AT_FAR, 1e-3), figure_named("EER hull").kind is EER_HULL
    (True, True)
    >>> figure_named("TAR@FAR") is figure_named("EER 0.1") is None
    True
    """
    name, _, argument = text.rpartition(" ")
    for kind in KINDS:
        if kind.rate_of is None and text == kind.name:
            return Figure(kind)
        if kind.rate_of is not None and name.strip() == kind.name:
            try:
                return Figure(kind, float(argument))
            except ValueError:
                return None
    return None


def in_table_order(figures: Iterable[Figure]) -> list[Figure]:
    """The figures that have a line in tables: rates, costs, costs of log-likelihood ratios, thresholds."""
    quantities = list(Quantity)
    shown = [figure for figure in dict.fromkeys(figures) if figure.kind.title is not None]
    return sorted(shown, key=lambda figure: quantities.index(figure.kind.quantity))


def readings_to_json(readings: Mapping[Figure, Reading | None]) -> dict[str, Any]:
    """Readings as plain values, those at rates by rate; None for what is not measurable.

    >>> from wespeaker_qm.evaluate.operating_points import EqualErrorRate
    >>> readings_to_json({Figure(EER): EqualErrorRate(0.25, 0.5), Figure(ACT_DCF, 0.01): 0.75})
    {'eer': 0.25, 'eer_threshold': 0.5, 'act_dcf': {'0.01': 0.75}}
    """
    content: dict[str, Any] = {}
    for figure, reading in readings.items():
        kind = figure.kind
        plain = reading._asdict() if isinstance(reading, tuple) else reading
        if kind.key is None:
            continue
        if kind.rate_of is not None:
            content.setdefault(kind.key, {})[figure.rate_name] = plain
        elif isinstance(plain, dict):
            content |= {kind.key if name == kind.field else f"{kind.key}_{name}": plain[name] for name in plain}
        else:
            content[kind.key] = plain
    return content


def values_from_json(content: Mapping[str, Any]) -> dict[Figure, float | None]:
    """The figures that :func:`readings_to_json` wrote; None for what is not measurable.

    >>> values = values_from_json({"eer": 0.25, "tar_at_far": {"1e-3": None}})
    >>> [(figure.name, value) for figure, value in values.items()]
    [('EER', 0.25), ('TAR@FAR 1e-3', None)]
    """
    values: dict[Figure, float | None] = {}
    for kind in KINDS:
        if kind.key is not None and kind.key in content:
            found = content[kind.key]
            by_rate = {None: found} if kind.rate_of is None else {float(name): each for name, each in found.items()}
            for rate, each in by_rate.items():
                values[Figure(kind, rate)] = each[kind.field] if isinstance(each, dict) else each
    return values
