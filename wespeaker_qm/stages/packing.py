"""Stage 2: pack the audio of every set into shards."""

import math

from wespeaker_qm.corpus.bad_audio import SILENCE_PEAK_DB
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.stage import reads_data


@reads_data
def pack(
    *,
    data: AnyPath,
    codec: str = "wav",
    sample_rate: int = 16000,
    utterances_per_shard: int = 1000,
    seed: int = 42,
    num_workers: int = 1,
    min_duration_s: float = 0.1,
    max_bad_fraction: float = 0.0,
) -> None:
    """Write ``shards/`` and ``shard.list`` of every set that ``corpus.yaml`` names.

    Args:
        data: a prepared corpus.
        codec: ``wav`` or ``flac``, both of 16 bits.
        sample_rate: all audio is brought to this rate, in Hz, and to one channel.
        utterances_per_shard: recordings a tar.
        seed: of the training set's order.
        num_workers: processes that decode; the result does not depend on them.
        min_duration_s: shorter speech is bad audio.
        max_bad_fraction: largest fraction (0 to 1) of a set's recordings that may be bad audio and is left out.

    Raises:
        RecipeError: the corpus is not prepared, or as :func:`wespeaker_qm.packing.pack.pack_data_dir` says.
    """
    data = DataFolder(data)
    corpus = CorpusInfo.load(data.info)
    for name in corpus.sets():
        is_speech = name not in (corpus.noise, corpus.rirs)
        pack_data_dir(
            data.set(name).path,
            sample_rate=sample_rate,
            codec=codec,
            utterances_per_shard=utterances_per_shard,
            shuffle=name == corpus.train,
            seed=seed,
            num_workers=num_workers,
            min_duration_s=min_duration_s if is_speech else 0.0,
            silence_peak_db=SILENCE_PEAK_DB if is_speech else -math.inf,
            max_bad_fraction=max_bad_fraction,
        )
