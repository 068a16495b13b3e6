"""What Table 5 shows here, in plain sentences."""

from collections.abc import Mapping

from wespeaker_qm.evaluate.comparison import LEVEL
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import EER
from wespeaker_qm.report.table5_figures import LossList
from wespeaker_qm.report.text import per_cent
from wespeaker_qm.utils.errors import counted

_EER = Figure(EER)


def table5_sentences(names: Mapping[str, str], lists: Mapping[str, LossList]) -> list[str]:
    """Which loss errs least and which most on each list, whether any two differ, and what that leaves open.

    Args:
        names: run -> loss, of all rows.
        lists: list -> figures of those that were trained, the headline first.
    """
    texts = [
        f"On list {name}, {_order(names, each)} {_differences(names, each)}".strip() for name, each in lists.items()
    ]
    first = next(iter(lists.values()))
    if first.num_runs > 1:
        texts.append(
            f"Figures are means over {first.num_runs} seeds, and what is said of other speakers allows for other seeds."
        )
    elif len(first.losses) > 1:
        texts.append("Each loss was trained once: what another seed would change, no interval here holds.")
    return texts


def _order(names: Mapping[str, str], measured: LossList) -> str:
    """Which loss errs least and which most."""
    rates = {run: loss.value(_EER) or 0.0 for run, loss in measured.losses.items()}
    best, worst = (ends(rates, key=rates.__getitem__) for ends in (min, max))
    lowest = f"{per_cent(rates[best])} %"
    if len(rates) == 1:
        return f"{names[best]} has an equal error rate of {lowest}; of {len(names)} losses no other was trained here."
    trained = f"{len(rates)} losses" if len(rates) == len(names) else f"{len(rates)} of {len(names)} losses"
    if rates[best] == rates[worst]:
        return f"all of {trained} have the same equal error rate, {lowest}."
    highest = f"{per_cent(rates[worst])} %"
    return f"{names[best]} errs least of {trained} (equal error rate {lowest}) and {names[worst]} most ({highest})."


def _differences(names: Mapping[str, str], measured: LossList) -> str:
    """Whether any two losses differ for other speakers; nothing where there is one."""
    if len(measured.losses) == 1:
        return ""
    result = measured.result
    pairs = [each for each in result.comparisons if each.figure == _EER]
    tested = [each for each in pairs if each.p_holm is not None]
    sure = [each for each in tested if each.p_holm is not None and each.p_holm < LEVEL]
    if not pairs:
        reason = result.no_intervals or "no intervals were asked for"
        return f"Whether any two differ for other speakers is not known: {reason}."
    if not tested:
        return "Whether any two differ for other speakers these trials cannot tell."
    scope = counted(len(tested), "pair", "pairs")
    if len(tested) < len(pairs):
        scope = f"the {len(tested)} of {len(pairs)} pairs that these trials can test"
    if not sure:
        return (
            f"No two differ for sure (p below {LEVEL} for none of {scope}, all allowed for): their order may be chance."
        )
    told = [
        f"{names[each.two]} errs {'more' if each.difference > 0 else 'less'} than {names[each.one]}" for each in sure
    ]
    return f"Of {scope} {len(sure)} differ{'s' * (len(sure) == 1)} for sure: {'; '.join(told)}."
