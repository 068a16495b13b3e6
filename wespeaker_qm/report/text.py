"""Figures, and what they are of, in words."""

from collections.abc import Callable, Mapping, Sequence

from wespeaker_qm.evaluate.comparison import LEVEL
from wespeaker_qm.evaluate.evidence import LEAST_ERRORS, LEAST_SPEAKERS
from wespeaker_qm.evaluate.figure import Figure, Quantity
from wespeaker_qm.evaluate.results import ListResult, Sureness
from wespeaker_qm.utils.errors import counted

NOT_MEASURABLE = "not measurable"
NO_INTERVAL = " (no interval: "
"""Before the reason why a figure has none."""
_LEVELS = {
    "speaker": "In simulated lists such intervals hold the true value in 91 to 99 %, but in 66 to 92 % at rates below "
    "3 in so many speakers where a few speakers are very unlike the rest (tools/validate_intervals.py).",
    "trial": "They are too narrow: trials that share a speaker are not independent.",
}
"""What is drawn -> how often the intervals hold the true value."""


def per_cent(rate: float, digits: int = 2) -> str:
    """A fraction as a percentage.

    >>> per_cent(0.123456)
    '12.35'
    """
    return f"{100 * rate:.{digits}f}"


def show_figure(figure: Figure, value: float | None, sureness: Sureness = None) -> str:
    """A figure, with its interval or with the reason why there is none; rates in per cent.

    Args:
        figure: which one.
        value: what it is; None where it is not measurable.
        sureness: its interval, why it has none, or None where none was asked for.

    >>> from wespeaker_qm.evaluate.figures import EER, MIN_CLLR, TAR_AT_FAR
    >>> show_figure(Figure(EER), 0.1234, (0.1, 0.15)), show_figure(Figure(MIN_CLLR), 0.1234, "3 misses")
    ('12.34 (10.00 to 15.00)', '0.123 (no interval: 3 misses)')
    >>> show_figure(Figure(TAR_AT_FAR, 1e-5), None)
    'not measurable'
    """
    if value is None:
        return NOT_MEASURABLE
    digits = figure.kind.digits
    if figure.kind.quantity is Quantity.THRESHOLD:
        return show_threshold(value, sureness, digits)
    if figure.kind.quantity is Quantity.RATE:
        return with_sureness(lambda rate: per_cent(rate, digits), value, sureness)
    return with_sureness(lambda cost: f"{cost:.{digits}f}", value, sureness)


def show_threshold(threshold: float, sureness: Sureness, digits: int = 6) -> str:
    """A threshold with its interval: so many decimals, and more where these would be another threshold.

    Scores are compared with it, so that what is shown must accept the very trials that were counted.

    >>> show_threshold(0.5, (0.4, 0.6)), show_threshold(0.123456789, None)
    ('0.500000 (0.400000 to 0.600000)', '0.123456789')
    """
    text = f"{threshold:.{digits}f}"
    if float(text) != threshold:
        text = repr(threshold)
    return with_sureness(lambda end: text if end == threshold else f"{end:.{digits}f}", threshold, sureness)


def with_sureness(show: Callable[[float], str], value: float, sureness: Sureness) -> str:
    """A number as ``show`` writes it, with its interval or with the reason why there is none.

    >>> with_sureness(str, 0.5, (0.25, 0.75)), with_sureness(str, 0.5, "3 false accepts"), with_sureness(str, 0.5, None)
    ('0.5 (0.25 to 0.75)', '0.5 (no interval: 3 false accepts)', '0.5')
    """
    if sureness is None:
        return show(value)
    if isinstance(sureness, str):
        return f"{show(value)}{NO_INTERVAL}{sureness})"
    return f"{show(value)} ({show(sureness[0])} to {show(sureness[1])})"


def show_p_value(p_value: float | None) -> str:
    """A p-value to three decimals, more where fewer would put it on the other side of ``LEVEL``.

    >>> show_p_value(0.0123), show_p_value(1e-5), show_p_value(0.04996), show_p_value(0.05), show_p_value(None)
    ('0.012', '< 0.001', '0.04996', '0.050', 'none')
    """
    if p_value is None:
        return "none"
    if p_value < 0.001:
        return "< 0.001"
    digits = 3
    while (float(text := f"{p_value:.{digits}f}") < LEVEL) != (p_value < LEVEL):
        digits += 1
    return text


def report_title(what: str, corpus: str, num_speakers: int | None) -> str:
    """The first line of a report; it says where the headline list has too few speakers to tell anything of others.

    >>> report_title("qmargin_a1.5", "mini", 31)
    'qmargin_a1.5 on mini'
    >>> report_title("qmargin_a1.5", "calls", 2)
    'qmargin_a1.5 on calls (2 speakers: too few to tell)'
    """
    if num_speakers is None or num_speakers >= LEAST_SPEAKERS:
        return f"{what} on {corpus}"
    return f"{what} on {corpus} ({counted(num_speakers, 'speaker', 'speakers')}: too few to tell)"


def list_notes_line(notes: Mapping[str, Sequence[str]]) -> str:
    """How many notes there are of lists other than the headline, and of which.

    >>> list_notes_line({"all": ["a", "b"], "near": ["c"]}), list_notes_line({"near": ["c"]})
    ('3 notes on other lists: all (2), near', '1 note on another list: near')
    """
    number = sum(map(len, notes.values()))
    names = ", ".join(name + (f" ({len(texts)})" if len(texts) > 1 else "") for name, texts in notes.items())
    return f"{number} note{'s' * (number > 1)} on {'another list' if len(notes) == 1 else 'other lists'}: {names}"


def counts(result: ListResult) -> str:
    """How many trials, and of how many speakers."""
    text = (
        f"{result.num_targets:,} target and {counted(result.num_nontargets, 'non-target trial', 'non-target trials')} "
        f"of {counted(result.num_utterances, 'utterance', 'utterances')}"
    )
    by = result.num_speakers
    return text if by is None else f"{text} by {counted(by, 'speaker', 'speakers')}"


def intervals_note(result: ListResult) -> str:
    """What the intervals of a list are, or why there are none."""
    if result.resampling is not None:
        return (
            f"In brackets: {100 * result.resampling.confidence:g} % intervals for other {result.resampling.unit}s of "
            f"this kind, from {result.resampling.num_resamples:,} resamples of the {result.resampling.unit}s; or why a "
            f"figure has none: fewer than {LEAST_ERRORS} errors of a kind, or a rate below 1 in so many speakers, tell "
            f"too little of others. {_LEVELS[result.resampling.unit]}"
        )
    return f"No intervals: {result.no_intervals or 'none were asked for (--num_resamples 0)'}."
