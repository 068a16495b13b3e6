"""What an evaluation shows, in plain sentences: the first thing that the reports and the console say.

They are made here, once, and stand in ``metrics.json``, from where the page takes them. A difference is called sure
only where its interval, if there is one, leaves 0 out and its p-value, corrected by Holm's method for all that is
compared in the same breath, is below 5 %; how large rates and differences are for other speakers is told only where
there is an interval.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.evaluate.comparison import LEVEL, holm
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import EER, TAR_AT_FAR, THRESHOLD_AT_FAR
from wespeaker_qm.evaluate.operating_points import FARS, OperatingPoint, trials_to_measure
from wespeaker_qm.evaluate.results import TRAINED, ListResult, SystemResult
from wespeaker_qm.report.text import per_cent, show_p_value
from wespeaker_qm.trials.variants import NORMALISED
from wespeaker_qm.utils.errors import counted

WANTED_FARS = (1e-2, 1e-3)
"""The false-accept rates whose thresholds are told."""
GUESSING = 0.5
"""The equal error rate of scores that know nothing."""
KNOWN_BASELINES = {
    "untrained": "the same network with random weights",
    "initial": "the network that training began with",
    "before": "the model as it was before",
    "ltas": "an average spectrum, which knows nothing of voices",
}
"""Name and folder of a baseline that the recipe makes -> what it is."""
_EER = Figure(EER)


def plain_sentences(
    run: str, lists: Mapping[str, ListResult], headline: str, baselines: Mapping[str, Path]
) -> list[str]:
    """How well a run tells speakers apart, beside its baselines, at which thresholds, and where it is weakest.

    Args:
        run: its name.
        lists: trial list -> figures.
        headline: the list that counts.
        baselines: name -> folder.

    Returns:
        A text of a few sentences for each of these subjects.
    """
    result = lists[headline]
    texts = [
        how_well(run, headline, result),
        beside_baselines(result, baselines),
        thresholds(result),
        weakest(lists, headline, baselines),
    ]
    return [text for text in texts if text]


def _in_words(reason: str) -> str:
    """Why a figure has no interval (:func:`wespeaker_qm.evaluate.evidence.figure_reason`), for who reads it first.

    >>> _in_words("FRR below 1/7"), _in_words("3 misses")
    ('errors so rare (FRR below 1/7) can be those of a single one of 7 speakers', '3 misses')
    """
    rate, below, count = reason.partition(" below 1/")
    return (
        f"errors so rare ({rate} below 1/{count}) can be those of a single one of {count} speakers" if below else reason
    )


def out_of(rate: float) -> str:
    """A rate as a count that a reader can picture: of 100, or of more where it is small.

    >>> out_of(0.1282), out_of(0.0149), out_of(1.0), out_of(0.0), out_of(0.99999)
    ('13 of 100', '15 of 1,000', '100 of 100', '0 of 100', '99,999 of 100,000')
    """
    rarer = min(rate, 1 - rate)
    whole = next((whole for whole in (100, 1000, 10_000) if rarer * whole >= 2), 100 if rarer == 0 else 100_000)
    return f"{rate * whole:,.0f} of {whole:,}"


def one_in(far: float) -> str:
    """A usual false-accept rate in words.

    >>> one_in(1e-3)
    '1 in 1,000'
    """
    return f"1 in {1 / far:,.0f}"


def how_well(run: str, headline: str, result: ListResult) -> str:
    """The equal error rate of the headline list, as a count of pairs of recordings."""
    system = result.systems[TRAINED]
    rate = _eer(system)
    if rate == 0:
        text = (
            f"{run} makes no error on list {headline}: all {result.num_targets:,} pairs of recordings of one speaker "
            f"score above all {result.num_nontargets:,} pairs of two. How rare its errors are, that cannot tell."
        )
    else:
        text = (
            f"On list {headline}, {run} judges {out_of(rate)} pairs of recordings wrongly, as often where one speaker "
            f"speaks as where two do (equal error rate {_eer_and_interval(system)})."
        )
        if max(rate, system.intervals.get(_EER, (rate, rate))[1]) >= GUESSING:
            text += f" That it does better than guessing ({per_cent(GUESSING, 0)} %) is not shown."
        for name in NORMALISED:
            if name in result.systems:
                text += f" With normalised scores ({name}) the rate is {_eer_and_interval(result.systems[name])}."
    if result.resampling is None:
        text += f" Of other speakers nothing is said: {result.no_intervals or 'no intervals were asked for'}."
    elif _EER in system.reasons:
        text += f" That is too little to tell of other speakers: {_in_words(system.reasons[_EER])}."
    return text


def beside_baselines(result: ListResult, baselines: Mapping[str, Path]) -> str:
    """Whether the run errs less than each baseline, and how sure that is."""
    if not baselines:
        return "It was compared with no baseline."
    texts = []
    for verdict in _verdicts({"": result}, baselines):
        name = verdict.baseline
        known = f"{KNOWN_BASELINES[name]}; " if baselines[name].name == name and name in KNOWN_BASELINES else ""
        texts.append(verdict.told(f"{name} ({known}{per_cent(_eer(result.systems[name]))} %)") + ".")
    return " ".join(texts)


def thresholds(result: ListResult) -> str:
    """From which score on to accept for the usual false-accept rates, and what that rests on."""
    system = result.systems[TRAINED]
    by = "" if result.num_speakers is None else f" by {counted(result.num_speakers, 'speaker', 'speakers')}"
    clauses: list[str] = []
    accepts, unsure, lacking = [], [], []
    for far in WANTED_FARS:
        point = system.readings.get(Figure(TAR_AT_FAR, far))
        if not isinstance(point, OperatingPoint):
            lacking.append(far)
            continue
        sureness = system.sureness(Figure(THRESHOLD_AT_FAR, far))
        interval = f" ({sureness[0]:.4g} to {sureness[1]:.4g})" if isinstance(sureness, tuple) else ""
        value = f"of about {point.threshold:.4g}{interval}"
        if clauses:
            clauses.append(f"one {value} at most {one_in(far)}, and {out_of(point.tar)}")
        else:
            clauses.append(
                f"A threshold {value} for its scores accepts at most {one_in(far)} pairs of two speakers, and "
                f"{out_of(point.tar)} pairs of one speaker"
            )
        accepts.append(f"{point.false_accepts:,}")
        unsure += [one_in(far)] if isinstance(sureness, str) else []
    texts = []
    if clauses:
        rests = f"{'That rests' if len(clauses) == 1 else 'They rest'} on {' and '.join(accepts)} falsely accepted of "
        rests += f"{counted(result.num_nontargets, 'pair', 'pairs')}{by}"
        if unsure:
            which = "" if len(unsure) == len(clauses) else f" for {unsure[0]}"
            rests += f", too few{which} to tell of other speakers"
        texts += [f"{'; '.join(clauses)}.", f"{rests}."]
    if lacking:
        needed = " or ".join(f"{trials_to_measure(far):,}" for far in lacking)
        texts.append(
            f"A threshold for {' or '.join(map(one_in, lacking))} this list cannot tell: that takes {needed} pairs of "
            f"two speakers, and it has {result.num_nontargets:,}{'' if clauses else by}."
        )
    return " ".join(texts)


def weakest(lists: Mapping[str, ListResult], headline: str, baselines: Mapping[str, Path]) -> str:
    """The list with the highest equal error rate, where a baseline is better, and what is not measurable."""
    texts = []
    others = {name: result for name, result in lists.items() if name != headline}
    rates = {name: _eer(result.systems[TRAINED]) for name, result in lists.items()}
    worst = max(rates, key=rates.__getitem__)
    if rates[worst] > rates[headline]:
        texts.append(
            f"The hardest list is {worst}: equal error rate {_eer_and_interval(lists[worst].systems[TRAINED])}."
        )
    elif others and rates[headline] > max(rates[name] for name in others):
        span = " to ".join(dict.fromkeys(per_cent(ends(rates[name] for name in others)) for ends in (min, max)))
        texts.append(f"Of {len(lists)} lists {headline} is the hardest: elsewhere the equal error rate is {span} %.")
    better = [verdict for verdict in _verdicts(others, baselines) if verdict.is_sure and verdict.difference > 0]
    if better:
        verdict = max(better, key=lambda each: each.difference)
        rate = per_cent(_eer(lists[verdict.trial_list].systems[verdict.baseline]))
        told = verdict.told(f"{verdict.baseline} ({rate} %)").removeprefix("It")
        texts.append(f"On list {verdict.trial_list} it{told}.")
    result = lists[headline]
    lacking = [far for far in FARS if not Figure(TAR_AT_FAR, far).is_measurable(result.num_nontargets)]
    if lacking and max(lacking) < min(WANTED_FARS):
        texts.append(
            f"What it does at {one_in(max(lacking))} list {headline} cannot tell: that takes "
            f"{trials_to_measure(max(lacking)):,} pairs of two speakers."
        )
    elif not lacking:
        tar = result.systems[TRAINED].value(Figure(TAR_AT_FAR, min(FARS)))
        if tar is not None:
            texts.append(
                f"Where it accepts at most {one_in(min(FARS))} pairs of two speakers, it accepts {out_of(tar)} of one."
            )
    return " ".join(texts)


class Verdict(NamedTuple):
    """The difference of the run and a baseline in equal error rate, as fractions."""

    trial_list: str
    baseline: str
    difference: float
    """Rate of the run less that of the baseline."""
    interval: tuple[float, float] | None
    p_value: float | None
    """Corrected for all that it is compared with; None where neither rate supports one."""
    reason: str | None
    """Why there is no interval, where one was asked for."""

    @property
    def is_sure(self) -> bool:
        """Whether the run and the baseline differ for other speakers, too."""
        if self.p_value is None or self.p_value >= LEVEL:
            return False
        return self.interval is None or not self.interval[0] <= 0 <= self.interval[1]

    def told(self, baseline: str) -> str:
        """As a clause; the ends of the interval count in the direction that it tells."""
        way, sign = ("less", -1) if self.difference < 0 else ("more", 1)
        points = f"{per_cent(abs(self.difference))} points"
        here = f"{points} {way} here" if self.difference else "as often here"
        others = self.reason
        if self.interval is not None:
            low, high = (per_cent(end) for end in sorted(sign * end for end in self.interval))
            others = f"{low} to {high} for other speakers, p {show_p_value(self.p_value)}"
            if self.is_sure:
                return f"It errs {way} often than {baseline}, by {points}; that is sure ({others})"
        elif self.p_value is not None:
            others = f"p {show_p_value(self.p_value)}; {self.reason}"
            if self.is_sure:
                return (
                    f"It errs {way} often than {baseline}, by {points} here; that is sure, by how much it does with "
                    f"other speakers is not ({others})"
                )
        if others is not None:
            return f"Whether it errs more or less often than {baseline} is open: {here} ({others})"
        return f"Here it errs {f'{points} {way} often than' if self.difference else 'as often as'} {baseline}"


def _verdicts(lists: Mapping[str, ListResult], baselines: Mapping[str, Path]) -> list[Verdict]:
    """The run beside each baseline, on each of the lists; p-values are corrected for all of them together."""
    verdicts = []
    for trial_list, result in lists.items():
        compared = {(each.one, each.two): each for each in result.comparisons if each.figure == _EER}
        for name in baselines:
            difference = _eer(result.systems[TRAINED]) - _eer(result.systems[name])
            found = compared.get((TRAINED, name))  # which is the figure of the baseline less that of the run
            if found is None:
                verdicts.append(Verdict(trial_list, name, difference, None, None, None))
                continue
            interval = None if found.low is None or found.high is None else (-found.high, -found.low)
            verdicts.append(Verdict(trial_list, name, difference, interval, found.p_value, found.reason))
    corrected = holm([verdict.p_value for verdict in verdicts])
    return [verdict._replace(p_value=p_value) for verdict, p_value in zip(verdicts, corrected, strict=True)]


def _eer(system: SystemResult) -> float:
    value = system.value(_EER)
    if value is None:
        raise ValueError("an equal error rate is always measurable")
    return value


def _eer_and_interval(system: SystemResult) -> str:
    """In per cent, with the interval where there is one."""
    interval = system.intervals.get(_EER)
    text = f"{per_cent(_eer(system))} %"
    if interval is None:
        return text
    return f"{text}, for other speakers {per_cent(interval[0])} to {per_cent(interval[1])} %"
