"""What other people's programs may import: it is here when they update, or CHANGELOG.md says that it has gone."""

import importlib
import subprocess
import sys

import pytest

PUBLIC = {
    "wespeaker_qm": """
        DataFolder ExpRoot RecipeError RunFolder Speaker SpeakerStore audio evaluate losses models stages trials
    """,
    "wespeaker_qm.audio": """
        AudioError Fbank audio_info band_limit change_speed mix_noise normalise_mean peak_normalise read_audio
        read_audio_at resample_audio reverberate simulate_rirs spec_augment write_wav
    """,
    "wespeaker_qm.evaluate": """
        ACT_DCF CLLR Comparison EER EER_HULL EqualErrorRate FAR_AT_TAR Figure ListResult MIN_CLLR MIN_DCF MinDcf
        OperatingPoint Resamples Resampling RocSteps SortedTrials Spread SystemResult TAR_AT_FAR THRESHOLD_AT_FAR
        act_dcf bayes_threshold cllr compare_all convex_hull equal_error_rate evaluate_systems far_at_tar figure_named
        is_measurable min_cllr min_dcf resample roc_steps spread tar_at_far wanted_figures
    """,
    "wespeaker_qm.losses": """
        AlphaLoss AngularMarginHead LinearLoss PrototypeSGD QMarginHead alpha_divergence_loss alpha_margin_linear
        alpha_softargmax angular_margin reinitialised_prototypes target_log_reference
    """,
    "wespeaker_qm.models": "ResNet SpeakerEncoder TemporalStatisticsPooling",
    "wespeaker_qm.stages": """
        average calibrate collect_table5 compare evaluate evaluate_folder export export_onnx extract
        find_thresholds fine_tune import_model measure normalise pack prepare report score score_files train verify_data
    """,
    "wespeaker_qm.trials": """
        ScoredTrials Trial TrialSpeakers TrialTable make_trials read_scores read_systems read_trial_table
        speakers_by_folder trial_speakers write_scores write_trials
    """,
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="wespeaker_qm"):
        importlib.import_module("wespeaker_qm").recognise  # noqa: B018


def imported_by(code):
    """What is loaded after ``code`` has run in a process of its own."""
    code = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_nothing_of_weight():
    assert not imported_by("import wespeaker_qm") & {"numpy", "scipy", "torch", "pydantic", "matplotlib"}


def test_evaluation_needs_no_torch():
    code = "from wespeaker_qm import evaluate, stages, trials\n"
    code += "evaluate.evaluate_systems, stages.measure, trials.read_scores"
    assert "torch" not in imported_by(code)


def test_the_losses_need_torch_alone():
    loaded = imported_by("from wespeaker_qm.losses import QMarginHead, alpha_divergence_loss, alpha_margin_linear")
    assert not loaded & {"scipy", "pydantic", "yaml", "soundfile", "kaldiio", "torchaudio"}
