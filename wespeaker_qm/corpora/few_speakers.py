"""A corpus says in stage 1, ahead of all figures, that its speakers are too few for them to tell anything of others."""

import logging

from wespeaker_qm.evaluate.evidence import LEAST_SPEAKERS
from wespeaker_qm.utils.errors import counted

logger = logging.getLogger(__name__)


def warn_of_few_speakers(num_evaluated: int, remedy: str) -> None:
    """Warn where fewer speakers are evaluated than intervals take.

    Args:
        num_evaluated: speakers of the trials.
        remedy: what helps here, in words with the option.
    """
    if num_evaluated < LEAST_SPEAKERS:
        logger.warning(
            "%s too few to tell how others fare: an EER of 0 means little, and no figure gets "
            "an interval, for which it takes %d; %s",
            counted(num_evaluated, "speaker to evaluate is", "speakers to evaluate are"),
            LEAST_SPEAKERS,
            remedy,
        )
