"""The held-out verification check that runs while a model trains."""

from collections.abc import Callable

import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.embed.extract import NetworkEmbedder, TrimmingEmbedder, embed_all
from wespeaker_qm.evaluate.operating_points import far_name
from wespeaker_qm.evaluate.summary import verification_summary
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.score.cosine import Directions
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder


def validation_check(
    data: DataFolder, fbank: Fbank, device: torch.device
) -> Callable[[SpeakerEncoder], dict[str, float | None]] | None:
    """The check of a corpus, or None where it names no validation list.

    It scores the list by plain cosine: the training mean, which evaluation subtracts, would cost a pass over the
    training set each time. So it tells how a run develops; the figures to quote come from stage 5.

    Args:
        data: prepared and packed corpus.
        fbank: the filter bank of evaluation (dither 0).
        device: where the network is.

    Raises:
        RecipeError: the list names utterances that are not packed.
    """
    corpus = CorpusInfo.load(data.info)
    if corpus.validation is None:
        return None
    trials = read_trial_table(data.trials(corpus.validation))
    reader = ShardReader(data.set(corpus.validation).shard_list)
    row_of = {key: row for row, key in enumerate(reader.keys)}
    missing = [key for key in trials.utterances if key not in row_of]
    if missing:
        raise RecipeError(
            f"{trials.path}: {counted(len(missing), 'utterance is', 'utterances are')} not packed in "
            f"{reader.shard_list}, e.g. {missing[0]}; pack the corpus again (run.sh --stage 2)"
        )
    rows = [row_of[key] for key in trials.utterances]

    def check(encoder: SpeakerEncoder) -> dict[str, float | None]:
        embedder = NetworkEmbedder(encoder, fbank, device)
        embeddings = embed_all(
            TrimmingEmbedder(embedder, fbank, encoder.min_frames),
            reader,
            frame_shift=fbank.frame_shift,
            num_workers=0,
            description="validation",
            show_progress=False,
        )
        directions = Directions.of(embeddings[rows], None, trials.utterances, "validation embeddings")
        summary = verification_summary(directions.cosines(trials.enrolment, trials.test), trials.is_target)
        tars = {f"tar_at_far_{far_name(far)}": tar for far, tar in summary.tar_at_far.items()}
        return {"eer": summary.eer, **tars}

    return check
