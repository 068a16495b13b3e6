"""Long-term average spectrum: a voice-blind baseline.

It knows the colour of a recording (microphone, room, codec, and the speaker's average timbre), nothing of what a voice
does in time. A speaker-verification system that is not clearly better has learnt the channel.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.pieces import mean_features
from wespeaker_qm.audio.waveform import Waveform


def long_term_average_spectrum(waveform: Waveform, fbank: Fbank) -> NDArray[np.float32]:
    """Mean over all frames of the log mel spectrum, less its mean over the bins, so that level plays no part.

    Compare two by the cosine after subtracting the training set's mean vector.

    Args:
        waveform: (S,) a whole utterance in [-1, 1].
        fbank: the analysis, without dither.

    Returns:
        (F,) float32 whose mean is 0.
    """
    with torch.inference_mode():
        spectrum = mean_features(waveform, fbank)
    return (spectrum - spectrum.mean()).numpy()
