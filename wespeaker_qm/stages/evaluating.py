"""The end of stages 5 to 7: metrics, DET plot and report from the scores that are there."""

import logging
import textwrap
from collections.abc import Mapping
from pathlib import Path

from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.evaluate.evidence import few_speakers_note
from wespeaker_qm.evaluate.figure import Compared
from wespeaker_qm.evaluate.metrics import evaluate_list
from wespeaker_qm.evaluate.results import TRAINED
from wespeaker_qm.report.evaluation import CorpusCard, Evaluation, Note, Training
from wespeaker_qm.report.evaluation_files import write_evaluation
from wespeaker_qm.report.loss_card import loss_card
from wespeaker_qm.report.markdown import list_table
from wespeaker_qm.report.text import list_notes_line
from wespeaker_qm.report.training_history import read_training_history
from wespeaker_qm.score.calibration_file import load_calibration
from wespeaker_qm.score.cohort import has_cohort, has_mean, known_speakers
from wespeaker_qm.score.upstream import digests, refuse_stale, stale
from wespeaker_qm.trials.bandwidths import mixed_bandwidths_note
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.speakers import effective_speakers, trial_speakers
from wespeaker_qm.trials.variants import CALIBRATED, VARIANTS, present_variants
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import NUM_SHOWN, RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.provenance import provenance
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map, read_numbers

logger = logging.getLogger(__name__)

OWN_SYSTEMS = (TRAINED, *VARIANTS)
"""Names that no baseline can have."""


@reads_data
def evaluate(
    *,
    data: AnyPath,
    run: AnyPath,
    baselines: Mapping[str, AnyPath] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> None:
    """Write ``metrics.json``, ``report.md``, ``report.tex`` and figures of all lists and systems.

    Args:
        data: a prepared corpus.
        run: a scored run; its normalised and calibrated scores are evaluated, too, if they are of what is there now.
        baselines: name -> another system, scored on the same lists; none if None.
        num_resamples: of the speakers, for the intervals; 0 for none, or at least 2.
        seed: of the resamples.

    Raises:
        RecipeError: scores are missing, or not of what is there now; a baseline's name is that of a system of the
            run; files that no stage made.
    """
    data, run = DataFolder(data), RunFolder(run)
    info = CorpusInfo.load(data.info)
    others = {name: RunFolder(system) for name, system in (baselines or {}).items()}
    for name in others:
        if name in (*OWN_SYSTEMS, f"{run.name} ({TRAINED})"):
            raise RecipeError(
                f"--baseline: {name} is what the run itself is called in the report, expected another name"
            )
    for system in (run, *others.values()):
        refuse_stale(system, data, info)
    variants, notes = _true_variants(data, run, info)
    mixed = _mixed_bandwidths(data, run, info)
    notes = [
        *_few_speakers(data, info, is_calibrated=CALIBRATED in variants),
        *_training_speakers(data, run, info),
        *mixed,
        *notes,
    ]
    outputs = [run.metrics, run.report("md"), run.report("tex"), run.det("png"), run.det("pdf")]
    outputs += [run.training_curves] if run.training_log.is_file() else []
    inputs = _inputs(data, run, info, variants, others)
    inputs |= {"systems": [*variants, *others], "num_resamples": num_resamples, "seed": seed}
    inputs |= {"mixed bandwidths": [note.text for note in mixed]} if mixed else {}
    marker = DoneMarker(
        run.marker("evaluate"), inputs, outputs, version=STAGE_VERSIONS["evaluate"], checks_outputs=True
    )
    with stage("evaluate", marker) as is_due:
        if not is_due:
            return
        evaluation = Evaluation(
            run=run.name,
            corpus=CorpusCard(name=info.name, description=info.description, caveat=info.caveat, headline=info.headline),
            lists={
                name: evaluate_list(
                    read_trial_table(data.trials(name)),
                    _score_files(run, name, variants, others),
                    read_map(data.set(info.trials[name]).utt2spk),
                    llr_systems=frozenset([CALIBRATED]),
                    num_resamples=num_resamples,
                    seed=seed,
                    progress=f"intervals {name}",
                )
                for name in info.trials
            },
            training=_training(run),
            notes=notes,
            baselines={name: system.path for name, system in others.items()},
            provenance=provenance(),
        )
        write_evaluation(evaluation, run)
        for sentence in evaluation.summary:
            whole = sentence.replace(" %", "\N{NO-BREAK SPACE}%")  # which no line begins with
            lines = textwrap.fill(whole, 100, initial_indent="- ", subsequent_indent="  ")
            logger.info("%s", lines.replace("\N{NO-BREAK SPACE}", " "))
        logger.info("\n%s, list %s (per cent):", info.name, info.headline)
        logger.info("%s\n", list_table(evaluation, evaluation.lists[info.headline], Compared.REPORTED))
        if info.caveat:
            logger.info("mind: %s", info.caveat)
        for text in evaluation.headline_notes:
            logger.warning("mind: %s", text)
        if evaluation.list_notes:
            logger.info("%s; see %s", list_notes_line(evaluation.list_notes), run.report("md"))
        logger.info("report: %s", run.report("md"))


def _few_speakers(data: DataFolder, info: CorpusInfo, *, is_calibrated: bool) -> list[Note]:
    """A note for each list of too few speakers, the headline first and what calibrated on the last."""
    lists = [(name, info.trials[name], False) for name in sorted(info.trials, key=lambda name: name != info.headline)]
    if is_calibrated and info.validation is not None:
        lists.append((info.validation, info.validation, True))
    notes = []
    for name, folder, is_fitted in lists:
        trials = read_trial_table(data.trials(name))
        speakers = trial_speakers(trials, read_map(data.set(folder).utt2spk))
        effective = effective_speakers(speakers, trials.is_target)
        note = few_speakers_note(name, effective, is_fitted=is_fitted)
        notes += [] if note is None else [Note(name, note)]
    return notes


def _mixed_bandwidths(data: DataFolder, run: RunFolder, info: CorpusInfo) -> list[Note]:
    """A note for each list with trials of a narrow and a wide recording, where extraction has measured them."""
    notes = []
    for name in info.trials:
        path = run.bandwidths(info.trials[name])
        if path.is_file():
            note = mixed_bandwidths_note(read_trial_table(data.trials(name)), read_numbers(path, "Hz"))
            notes += [Note(name, f"List {name}: {note} ({path}).")] if note else []
    return notes


def _training_speakers(data: DataFolder, run: RunFolder, info: CorpusInfo) -> list[Note]:
    """What is missing for want of training speakers, of the corpus or with the model, or who is known of these.

    Scores of another origin than a run's embeddings are as they are.
    """
    if not run.embeddings.is_dir():
        return []
    if has_cohort(run, info):
        known = sorted({name for folder in info.trials.values() for name in known_speakers(run, data.set(folder))})
        if not known:
            return []
        text = (
            f"{counted(len(known), 'evaluation speaker bears a name', 'evaluation speakers bear names')} of speakers "
            f"that the model was trained on ({', '.join(known[:NUM_SHOWN])}{', ...' * (len(known) > NUM_SHOWN)}): if "
            "they are the same people, the figures mislead."
        )
    elif has_mean(run, info):
        text = "Scores are not normalised: the model brought no cohort of training speakers (stage 6 makes it)."
    else:
        text = "Plain cosines, not normalised: there are no training speakers, of the corpus or with the model."
    return [Note(None, text)]


def _true_variants(data: DataFolder, run: RunFolder, info: CorpusInfo) -> tuple[list[str], list[Note]]:
    """The normalised and calibrated scores that are there and are of what is there now, and notes; others are told."""
    true, notes = [], []
    for variant in present_variants(run, info.trials):
        try:
            reasons = stale(variant, run, data)
        except RecipeError as error:
            logger.warning("%s: the %s scores are left out: %s", run.all_scores, variant, error)
            continue
        if reasons is None:
            reasons = [
                "no record of what they were made from: by an interrupted run, an earlier version or somebody else"
            ]
        if reasons:
            number = 7 if variant == CALIBRATED else 6
            logger.warning(
                "%s: the %s scores are left out: %s; make them again (run.sh --stage %d)",
                run.all_scores,
                variant,
                "; ".join(reasons),
                number,
            )
            continue
        if variant == CALIBRATED:
            try:
                _, checks = load_calibration(run.calibration)
            except RecipeError as error:
                logger.warning("calibrated scores are left out: %s", error)
                continue
            notes = [Note(name, f"List {name}: {note}.") for name, check in checks.items() for note in check.notes()]
        true.append(variant)
    return true, notes


def _inputs(
    data: DataFolder, run: RunFolder, info: CorpusInfo, variants: list[str], baselines: Mapping[str, RunFolder]
) -> dict[str, object]:
    """Digests of all that the evaluation reads."""
    sources = ["data/corpus.yaml", "config.yaml", "train_log.jsonl", "scores/calibration.json"]
    sources += [f"data/trials/{name}" for name in info.trials]
    sources += [f"data/{folder}/utt2spk" for folder in info.trials.values()]
    sources += [f"scores/{run.scores(name, variant).name}" for name in info.trials for variant in ("", *variants)]
    inputs: dict[str, object] = dict(digests(sources, run, data))
    for baseline, system in baselines.items():
        files = (f"scores/{system.scores(name).name}" for name in info.trials)
        inputs |= {f"{baseline}: {name}": digest for name, digest in digests(files, system, data).items()}
    return inputs


def _score_files(
    run: RunFolder, trial_list: str, variants: list[str], baselines: Mapping[str, RunFolder]
) -> dict[str, Path]:
    """System -> its scores of a list: the run's own, and those of the baselines."""
    own = {TRAINED: run.scores(trial_list), **{variant: run.scores(trial_list, variant) for variant in variants}}
    return own | {name: system.scores(trial_list) for name, system in baselines.items()}


def _training(run: RunFolder) -> Training | None:
    """None where the run was not trained here."""
    if not run.training_log.is_file():
        return None
    return Training(loss=loss_card(load_config([run.config])), history=read_training_history(run.training_log))
