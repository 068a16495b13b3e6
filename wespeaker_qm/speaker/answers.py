"""What ``verify`` prints."""

import dataclasses
import json

from wespeaker_qm.export.cohort import SCORE_DECIMALS
from wespeaker_qm.speaker.decision import Decision
from wespeaker_qm.utils.errors import printable

_VERDICTS = {True: "same speaker", False: "different speakers", None: "no decision"}


def print_decision(decision: Decision, *, as_json: bool) -> None:
    """Print a decision, in lines for people or in one of JSON (the fields of :class:`.Decision`)."""
    if as_json:
        print(json.dumps(dataclasses.asdict(decision), allow_nan=False))
        return
    print(printable("\n".join(lines(decision))))


def lines(decision: Decision) -> list[str]:
    """A decision in words."""

    def shown(value: float) -> str:
        return f"{value:.{SCORE_DECIMALS}f}"

    said = [f"{_VERDICTS[decision.same]} (score {shown(decision.score)}"]
    if decision.threshold is not None:
        said[0] += f", threshold {shown(decision.threshold)} at FAR {decision.far:g}"
        if decision.threshold_interval is not None:
            said[0] += f", 95 % interval {' to '.join(map(shown, decision.threshold_interval))}"
    said[0] += ")"
    llr = "none: the model has no calibration" if decision.llr is None else f"{decision.llr:+.2f}"
    said.append(f"log-likelihood ratio: {llr}; cosine: {shown(decision.cosine)}")
    said.append("speech: {:.1f} s and {:.1f} s".format(*decision.seconds_of_speech))
    said.append(f"the threshold rests on {decision.rests_on}")
    return [*said, *(f"mind: {text}" for text in decision.warnings)]
