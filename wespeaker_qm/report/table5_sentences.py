"""What Table 5 shows here, in plain sentences."""

from collections.abc import Mapping

from wespeaker_qm.evaluate.comparison import LEVEL
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import EER
from wespeaker_qm.evaluate.results import ListResult
from wespeaker_qm.report.text import per_cent


def table5_sentences(names: Mapping[str, str], measured: ListResult) -> list[str]:
    """Which loss errs least and which most, whether any two differ, and what that leaves open.

    Args:
        names: run -> loss, of all rows.
        measured: figures and differences of those that were trained.
    """
    figure = Figure(EER)
    rates = {run: system.value(figure) or 0.0 for run, system in measured.systems.items()}
    best, worst = (ends(rates, key=rates.__getitem__) for ends in (min, max))
    if len(rates) == 1:
        return [
            f"One of {len(names)} losses was trained here: {names[best]}, equal error rate {per_cent(rates[best])} %."
        ]
    trained = f"Of {len(rates)} losses" if len(rates) == len(names) else f"Of {len(rates)} of {len(names)} losses"
    texts = [
        f"{trained}, {names[best]} errs least here (equal error rate {per_cent(rates[best])} %) and {names[worst]} "
        f"most ({per_cent(rates[worst])} %)."
    ]
    if rates[best] == rates[worst]:
        texts = [f"{trained} all have the same equal error rate here, {per_cent(rates[best])} %."]
    pairs = [each for each in measured.comparisons if each.figure == figure]
    tested = [each for each in pairs if each.p_holm is not None]
    sure = [each for each in tested if each.p_holm is not None and each.p_holm < LEVEL]
    if not pairs:
        reason = measured.no_intervals or "no intervals were asked for"
        texts.append(f"Whether any two differ for other speakers is not known: {reason}.")
    elif not tested:
        texts.append("Whether any two differ for other speakers these trials cannot tell.")
    elif not sure:
        texts.append(
            f"No two differ for sure (p below {LEVEL} for none of {len(tested)} pairs, all allowed for): their order "
            "may be chance."
        )
    else:
        told = [
            f"{names[each.two]} errs {'more' if each.difference > 0 else 'less'} than {names[each.one]}"
            for each in sure
        ]
        texts.append(f"Of {len(tested)} pairs {len(sure)} differ{'s' * (len(sure) == 1)} for sure: {'; '.join(told)}.")
    texts.append("Each loss was trained once: what another seed would change, no interval here holds.")
    return texts
