"""The model card: what a model was trained on, what was measured of it, and what it must not be used for."""

from collections.abc import Mapping
from typing import Any

from wespeaker_qm.evaluate.figures import EER, MIN_DCF, TAR_AT_FAR, values_from_json
from wespeaker_qm.evaluate.operating_points import far_name
from wespeaker_qm.export.cohort import SCORE_DECIMALS
from wespeaker_qm.export.contents import Evidence, FeatureCard, NetworkCard, ScoringCard, Threshold
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.report.text import per_cent, show_figure
from wespeaker_qm.utils.errors import counted

_SHOWN = (EER, TAR_AT_FAR, MIN_DCF)

_NOT_FOR = """\
- Not as the only ground for a decision about a person: on money, work, a border or in court. A false-accept rate is
  that of the trials named above; for other people, languages, microphones and rooms it is unknown until it is measured.
- Not against imitation: replayed, synthetic and converted voices were not tested, and nothing here detects them.
- Not to identify people who have not agreed to it. A voice is biometric data, which the law of many countries protects.
- Not to tell sex, age, origin, health or mood."""


def model_card(
    *,
    name: str,
    network: NetworkCard,
    features: FeatureCard,
    scoring: ScoringCard,
    num_cohort: int,
    is_calibrated: bool,
    evidence: Evidence | None,
    training: Mapping[str, Any],
    figures: Mapping[str, Any],
    fingerprint: str,
) -> str:
    """The card as Markdown; arguments as the entries of :class:`wespeaker_qm.export.folder.ModelFolder`.

    Args:
        name: of the model.
        network: which network.
        features: what it is given.
        scoring: how it scores.
        num_cohort: speakers of the cohort; 0 without one.
        is_calibrated: whether it gives log-likelihood ratios.
        evidence: what was measured; None where nothing was.
        training: what it was trained on.
        figures: system -> figures of the headline list.
        fingerprint: of the model.
    """
    speakers = counted(num_cohort, "training speaker", "training speakers")
    cohort = f"{scoring.normalisation} against {speakers}" if num_cohort else "plain cosines"
    if scoring.top_n is not None:
        cohort += f", of whom the nearest {min(scoring.top_n, num_cohort):,} count"
    calibration = "log-likelihood ratios" if is_calibrated else "no calibration: no log-likelihood ratios"
    parts = [
        f"# {name}",
        "A speaker-verification model: from two recordings to a score, and to a decision at a stated false-accept "
        "rate. Written by wespeaker_qm; `wespeaker-qm verify a.wav b.wav --model DIR` uses it, and so does "
        '`wespeaker_qm.Speaker.load("DIR")`.',
        f"{network.encoder}, embeddings of {network.embed_dim} dimensions, {features.num_mel_bins} log mel energies of "
        f"audio at {features.sample_rate:,} Hz; scores: {cohort}; {calibration}. Fingerprint `{fingerprint[:16]}`.",
        "## Trained on",
        _trained_on(training),
        "## What was measured",
        _measured(evidence, figures, is_known=training["corpus"] is not None),
        "## What it must not be used for",
        _NOT_FOR,
    ]
    return "\n\n".join(parts) + "\n"


def int8_card(card: str, *, fingerprint: str, trial_list: str, float32_eer: float, int8_eer: float) -> str:
    """The card of a model whose convolutions are in 8 bits: what that costs, then the card of the model in float32.

    Args:
        card: of the model in float32.
        fingerprint: of the one in 8 bits.
        trial_list: on which both were measured.
        float32_eer: a fraction.
        int8_eer: a fraction.
    """
    title, rest = card.split("\n", 1)
    cost = (
        f"Convolutions in 8 bits: equal error rate of the cosines of {trial_list} {per_cent(int8_eer)} %, in float32 "
        f"{per_cent(float32_eer)} % ({100 * (int8_eer - float32_eer):+.2f} points). Embeddings are not those of "
        f"float32 and cannot be compared with them (fingerprint `{fingerprint[:16]}`). All else below is that of the "
        "model in float32; its thresholds were not measured again."
    )
    return f"{title} in 8 bits\n\n{cost}\n{rest}"


def _trained_on(training: Mapping[str, Any]) -> str:
    if training["corpus"] is None:
        return "Unknown: the network came as a finished model, without a record of its training."
    rows = [
        ["corpus", " ".join(filter(None, (str(training["corpus"]), str(training["description"]))))],
        ["mind", str(training["caveat"])],
        ["licence of the recordings", str(training["licence"] or "see where the corpus comes from")],
        ["loss", str(training["loss"])],
        ["epochs", str(training["num_epochs"])],
        ["when, by which version", f"{training['time']}, commit {training['commit']}"],
    ]
    parts = [markdown_table(["", ""], [row for row in rows if row[1]])]
    if origin := training.get("fine_tuned_from"):
        parts.append(f"That went on from the model `{origin['fingerprint'][:16]}`, which was trained on:")
        parts.append(_trained_on(origin["training"]))
    return "\n\n".join(parts)


def _measured(evidence: Evidence | None, figures: Mapping[str, Any], *, is_known: bool) -> str:
    if evidence is None:
        return "Nothing: there were no scores of a trial list, so there are no thresholds and no decisions."
    speakers = "unknown" if evidence.num_speakers is None else f"{evidence.num_speakers:,}"
    trained = "none of them trained on" if is_known else "who may have been trained on: that is not known"
    parts = [
        f"On {evidence.num_targets:,} target and "
        f"{counted(evidence.num_nontargets, 'non-target trial', 'non-target trials')} of "
        f"{speakers} speakers, {trained}; list {evidence.trial_list} of {evidence.corpus}."
        + f" {evidence.caveat}".rstrip(),
        markdown_table(
            ["accepted impostors at most", "threshold", "95 % interval", "accepted targets %"],
            [_threshold_row(each) for each in evidence.thresholds],
        ),
    ]
    if figures:
        parts.append(_figures_table(figures))
    return "\n\n".join(parts)


def _threshold_row(each: Threshold) -> list[str]:
    if each.threshold is None or each.tar is None:
        return [far_name(each.far), f"none: {each.no_interval}", "", ""]
    interval = f"none: {each.no_interval}"
    if each.interval is not None:
        interval = " to ".join(f"{end:.{SCORE_DECIMALS}f}" for end in each.interval)
    return [far_name(each.far), f"{each.threshold:.{SCORE_DECIMALS}f}", interval, per_cent(each.tar)]


def _figures_table(figures: Mapping[str, Any]) -> str:
    """A column a figure; in brackets 95 % intervals over speakers, or why there is none."""
    wanted = [figure for figure in values_from_json(next(iter(figures.values()))) if figure.kind in _SHOWN]
    rows = []
    for system, content in figures.items():
        values, intervals = values_from_json(content), content["intervals"]
        cells = []
        for figure in wanted:
            interval = intervals.get(figure.name)
            sureness = content["no_interval"].get(figure.name) if interval is None else tuple(interval)
            cells.append(show_figure(figure, values.get(figure), sureness))
        rows.append([system, *cells])
    return markdown_table(["scores", *(figure.title for figure in wanted)], rows)
