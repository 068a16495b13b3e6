"""Stage 8, second part: the model as one ``.onnx`` file, in its folder."""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.waveform import Waveform
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.embed.extract import TrimmingEmbedder, embed_all
from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.export.card import int8_card
from wespeaker_qm.export.files import CARD, DESCRIPTION
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network.onnx_graph import Features
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.score.cosine import Directions, score_trials
from wespeaker_qm.speaker.network import EmbeddingNetwork
from wespeaker_qm.speaker.onnx_model import add_metadata, write_int8_model, write_onnx_model
from wespeaker_qm.speaker.onnx_network import OnnxNetwork
from wespeaker_qm.speaker.torch_network import build_network
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.done import DoneMarker, file_digest
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.extras import installation
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.text import read_text

CALIBRATION_RECORDINGS = 64

logger = logging.getLogger(__name__)


@reads_data
def export_onnx(
    *, data: AnyPath, run: AnyPath, features: Features = "outside", int8: bool = False, if_possible: bool = False
) -> None:
    """Write ``model/model.onnx``, which can be used alone and without torch (:mod:`wespeaker_qm.network.onnx_graph`).

    Args:
        data: the corpus that the run was evaluated on.
        run: a run of which :func:`~wespeaker_qm.stages.exporting.export` has written the model.
        features: ``outside`` the graph, as WeSpeaker and sherpa-onnx have them, or ``inside``.
        int8: write ``model/model.int8.onnx``, too, with convolutions in 8 bits, and measure what that costs: the equal
            error rate of the headline list, by cosine, stands beside that of float32 in the log, in the metadata, and
            in the card of that file, ``model/model.int8.md``.
        if_possible: write nothing, and say so, where the packages for it are not installed.

    Raises:
        RecipeError: there is no model; the packages are not installed; 8 bits with features inside.
    """
    data, run = DataFolder(data), RunFolder(run)
    lacking = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking and if_possible:
        logger.info(
            "stage export onnx: %s is not installed, so no %s is written (to have it: %s, then stage 8 again)",
            lacking[0],
            run.onnx(),
            installation("onnx"),
        )
        return
    if lacking:
        raise RecipeError(f"{run.onnx()}: needs the package {lacking[0]}: {installation('onnx')}")
    if int8 and features == "inside":
        raise RecipeError("int8: found features inside the graph, expected outside, where float32 computes them")
    path, small = run.onnx(), [run.onnx("int8"), run.int8_card]
    inputs = {"model": file_digest(run.model_folder / DESCRIPTION), "features": features, "int8": int8}
    outputs = [path, *(small if int8 else [])]
    marker = DoneMarker(
        run.marker("export_onnx"), inputs, outputs, version=STAGE_VERSIONS["export_onnx"], checks_outputs=True
    )
    with stage("export onnx", marker, others=small) as is_due:
        if not is_due:
            return
        folder = ModelFolder.read(run.model_folder)
        write_onnx_model(folder, path, features)
        for each in small:
            each.unlink(missing_ok=True)  # of another model
        logger.info("model: %s (%s)", path, _size(path))
        if int8:
            _write_int8(data, run, folder)


def _write_int8(data: DataFolder, run: RunFolder, folder: ModelFolder) -> None:
    info, path = CorpusInfo.load(data.info), run.onnx("int8")
    write_int8_model(run.onnx(), path, _some_recordings(data, info, folder.features.sample_rate))
    trials = read_trial_table(data.trials(info.headline))
    reader = ShardReader(data.set(info.trials[info.headline]).shard_list)
    network = OnnxNetwork(path, "cpu")
    embeddings = _embeddings(folder, network, reader)
    row_of = {key: row for row, key in enumerate(reader.keys)}
    rows = [row_of[key] for key in trials.utterances]
    small = Directions.of(embeddings[rows], folder.mean, trials.utterances).cosines(trials.enrolment, trials.test)
    whole = score_trials(trials, run.xvectors(info.trials[info.headline]), folder.mean)
    eer = [equal_error_rate(roc_steps(scores, trials.is_target)).rate for scores in (whole, small)]
    add_metadata(path, {"trial_list": info.headline, "eer_float32": f"{eer[0]:.6f}", "eer_int8": f"{eer[1]:.6f}"})
    mark = ModelFolder.in_metadata(path, network.metadata).fingerprint
    card = read_text(run.model_folder / CARD)
    write_text(
        run.int8_card, int8_card(card, fingerprint=mark, trial_list=info.headline, float32_eer=eer[0], int8_eer=eer[1])
    )
    logger.info(
        "model: %s (%s); EER of the cosines of %s: %.2f %%, in float32 %.2f %%",
        *(path, _size(path), info.headline, 100 * eer[1], 100 * eer[0]),
    )


def _some_recordings(data: DataFolder, info: CorpusInfo, sample_rate: int) -> list[NDArray[np.float32]]:
    """Of the training set where there is one, evenly spread over it, so that no trial has a part in it."""
    reader = ShardReader(data.set(info.train or info.trials[info.headline]).shard_list)
    rows = np.linspace(0, len(reader) - 1, min(CALIBRATION_RECORDINGS, len(reader))).astype(int).tolist()
    if reader.sample_rate != sample_rate:
        raise RecipeError(
            f"{reader.shard_list}: sample rate {reader.sample_rate} Hz, but the network expects {sample_rate}; pack "
            f"the corpus at that rate (run.sh --stage 2 --pack_opts '--sample_rate {sample_rate}')"
        )
    return [reader.read(row) for row in rows]


def _embeddings(folder: ModelFolder, network: EmbeddingNetwork, reader: ShardReader) -> NDArray[np.float32]:
    """(N, D) of a set, as stage 4 gives them to the network."""
    _, fbank = build_network(folder)

    def embed(waveforms: Sequence[Waveform]) -> NDArray[np.float32]:
        return network.embed([waveform[:] for waveform in waveforms])

    trimming = TrimmingEmbedder(embed, fbank, folder.network.min_frames)
    embeddings: NDArray[np.float32] = embed_all(
        trimming if folder.features.trim_silence else embed,
        reader,
        frame_shift=fbank.frame_shift,
        num_workers=0,
        description="int8",
    )
    return embeddings


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
