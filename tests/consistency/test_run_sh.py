"""run.sh's options: what it refuses and what it says, without running a stage."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import SUBCOMMANDS
from wespeaker_qm.utils.layout import RunFolder

ROOT = Path(__file__).parents[2]


def run_sh(*options):
    return subprocess.run([ROOT / "run.sh", *options], capture_output=True, text=True, timeout=60, cwd="/")


def test_help_lists_stages_and_every_option_with_its_default():
    result = run_sh("--help")
    assert result.returncode == 0
    stages = re.findall(r"^  (\d)  (\w+) ", result.stdout, re.MULTILINE)
    # "average" belongs to stage 4, which is called after what it is for.
    alone = {name: numbers for name, (_, numbers, _) in SUBCOMMANDS.items() if len(numbers) == 1 and name != "average"}
    assert stages == [(str(number), name) for name, (number,) in alone.items()]
    (names,) = re.findall(
        r"^options=\((.*?)\)", (ROOT / "run.sh").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for name in names.split():
        assert re.search(rf"^  --{name} .*\[.*\]$", result.stdout, re.MULTILINE), name
    assert "Example:" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stgae", "1"], "unknown option --stgae; the nearest are --stage, "),
        (["--exp-dri", "x"], "unknown option --exp-dri; the nearest are --exp_dir, "),
        (["--stage"], "option --stage misses its value"),
        (["--stage", "--stop_stage", "3"], "option --stage misses its value"),
        (["--stage", "three"], "found 'three', expected a whole number"),
        (["--corpus="], "option --corpus misses its value"),
        (["stage"], "found 'stage' where an option was expected"),
        (["--stage", "9"], "found stage 9, expected 1 to 8: 1 prepare, 2 pack, 3 train, 4 extract, 5 score, 6 norm"),
        (["--stop_stage", "0"], "found stage 0, expected 1 to 8"),
        (["--stage=3", "--stop-stage=2"], "--stage 3 comes after --stop_stage 2"),
        (["--resume", "False"], "option --resume: found 'False', expected true or false"),
        (["--table5", "yes"], "option --table5: found 'yes', expected true or false"),
        (["--table5", "true", "--loss", "conf/loss/cosface.yaml"], "leave out --loss and --exp_dir"),
        (["--corpus", "egs/none"], "found no folder egs/none; there are: egs/"),
        (["--loss", "conf/loss/none.yaml"], "found no configuration conf/loss/none.yaml; losses are: conf/loss/a3m"),
        (["--config", "none.yaml"], "found no configuration none.yaml"),
        (["--gpus", "[a]"], "--gpus: found a, expected a list of numbers"),
        (["--num_workers", "0"], "--num_workers: found 0, expected at least 1"),
        (["--num-processes", "0"], "--num_processes: found 0, expected at least 1"),
        (["--num_nodes=-1"], "--num_nodes: found -1, expected at least 1"),
        (["--top_n", "1"], "--top_n: found 1, expected at least 2"),
        (["--num_resamples", "1"], "--num_resamples: found 1, expected 0 or at least 2"),
        (["--node_rank", "1"], "--node_rank: found 1, expected 0 to 0"),
        (["--num_nodes", "2", "--node_rank=-1"], "--node_rank: found -1, expected 0 to 1"),
        (["--config", " "], "--config: found no file in it"),
        (["--codec", "mp3"], "--codec: found mp3, expected wav or flac"),
        (["--score_norm_method", "znorm"], "--score_norm_method: found znorm, expected asnorm or snorm"),
        (["--gpus", "0 -1"], "--gpus: found -1, expected a list of numbers"),
        (["--gpus", "[]"], "--gpus: found [], expected a list of numbers"),
        (["--overrides", "seed=1 'b"], "option --overrides: found a quote without its partner"),
    ],
)
def test_a_wrong_option_is_a_message_and_exit_1(options, message):
    result = run_sh(*options)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stdout == ""


def banners(folder, script):
    """What run.sh's functions for its banners print in ``script``, without dates."""
    text = (ROOT / "run.sh").read_text(encoding="utf-8")
    (functions,) = re.findall(r"^announce\(\) \{.*?(?=^is_first=)", text, re.DOTALL | re.MULTILINE)
    script = f"set -euo pipefail\nis_first=true data=data\nmkdir -p data x/log x/.done\n{functions}\n{script}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return [line.split(" ", 2)[2] for line in result.stdout.splitlines()]


def test_a_banner_says_how_long_the_stage_took_when_it_last_did_anything(tmp_path):
    record = tmp_path / "x" / "log" / "stage_3.seconds"
    # A stage takes longer than a tick of the clock that dates files, which may lag behind that of `date`.
    work = "begin x 'Stage 3' 'train x'; sleep 0.05; touch x/.done/train; begin x 'Stage 4' 'extract'; finish"
    first = banners(tmp_path, work)
    assert first[0] == "Stage 3: train x" and first[2:] == ["Stage 4: extract"]
    assert re.fullmatch(r"Stage 3: done in \d s", first[1]) and re.fullmatch(r"\d\n", record.read_text())
    assert not record.with_name("stage_4.seconds").exists(), "it had nothing to do"
    for seconds, words in (("99", "99 s"), ("1090", "18 min"), ("7265", "2 h 1 min")):
        record.write_text(f"{seconds}\n")
        skipped = banners(tmp_path, "begin x 'Stage 3' 'train x'; finish")
        assert skipped == [f"Stage 3: train x; it took {words} the last time"]
        assert record.read_text() == f"{seconds}\n", "a stage that is skipped tells nothing of how long it takes"
    for damaged in ("", "three", "-5", "1" * 30, "1\n2"):
        record.write_text(damaged)
        assert banners(tmp_path, "begin x 'Stage 3' 'train x'; finish") == ["Stage 3: train x"]


def test_a_stage_that_fails_leaves_the_time_of_the_last_that_did_not(tmp_path):
    record = tmp_path / "x" / "log" / "stage_3.seconds"
    record.parent.mkdir(parents=True)
    record.write_text("500\n")
    banners(tmp_path, "begin x 'Stage 3' 'train x'; touch x/.done/other; (exit 1) || exit 0; finish")
    assert record.read_text() == "500\n"


@pytest.mark.parametrize("gpus", ["97", "[97, 98]", "97\n98"])
def test_a_gpu_that_is_not_there_is_refused_before_any_stage(gpus):
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [ROOT / "run.sh", "--gpus", gpus]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 1
    listed = ",".join(re.findall("[0-9]+", gpus))
    assert f"--gpus: found {listed}, but of these CUDA shows 0" in result.stderr
    assert "Stage" not in result.stdout


STUB = """#!/bin/bash
case "$1" in
tools/*) exec {python} "$@" ;;
*) echo "$*" >> "{log}" ;;
esac
"""


@pytest.fixture
def calls(tmp_path):
    """Function: run run.sh with an interpreter that only notes what it is asked to do; returns output and notes."""

    def run(*options):
        stub, log = tmp_path / "python", tmp_path / "log"
        stub.write_text(STUB.format(python=sys.executable, log=log))
        stub.chmod(0o755)
        log.write_text("")
        command = [ROOT / "run.sh", "--data", tmp_path / "data", "--exp_root", tmp_path / "exp", *options]
        environment = {**os.environ, "PYTHON": str(stub)}
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout, [re.findall(r"main (\w+)", line)[0] for line in log.read_text().splitlines()]

    return run


ALL = ["prepare", "pack", "train", "average", *["extract"] * 4, *["score"] * 3, "normalise", "calibrate"]
ALL += ["evaluate", "report", "export"]


def test_the_first_of_several_machines_runs_every_stage(calls):
    assert calls()[1] == ALL
    assert calls("--num_nodes", "2", "--HOST_NODE_ADDR", "localhost:29987")[1] == ALL
    assert calls("--num_nodes", "2", "--HOST_NODE_ADDR", "192.0.2.1:29987", "--node_rank", "0")[1] == ALL


def test_another_machine_waits_for_the_first_and_trains_only(calls):
    with socket.create_server(("localhost", 0)) as first:
        address = f"localhost:{first.getsockname()[1]}"
        output, made = calls("--num_nodes", "2", "--HOST_NODE_ADDR", address, "--node_rank", "1")
    assert made == ["train"]
    assert f"The first of the 2 machines is {address}: this one runs stage 3 only" in output
    # An address for examples, which no machine has.
    output, made = calls("--num_nodes", "2", "--HOST_NODE_ADDR", "192.0.2.1:29987", "--stage", "4")
    assert made == []
    assert "The first of the 2 machines is 192.0.2.1:29987" in output


def test_a_finished_model_takes_the_place_of_training_and_average(calls, tmp_path):
    model = tmp_path / "finished"
    model.mkdir()
    assert calls("--model", model)[1] == [step for step in ALL if step not in ("train", "average")]
    made = (tmp_path / "log").read_text()
    assert made.count(f"--model {model}") == 1
    assert f"extract --data {tmp_path}/data --exp_dir {tmp_path}/exp/with_finished --model {model}" in made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "no/such"], "--model: found no folder no/such, expected one with config.yaml and avg_model.pt"),
        (["--model", "conf", "--loss", "conf/loss/softmax.yaml"], "has a configuration of its own: leave out --config"),
        (["--model", "conf", "--table5", "true"], "leave out --config, --loss, --overrides and --table5"),
        (["--model", "conf", "--stage", "3", "--stop_stage", "3"], "--model conf is not trained (stage 3)"),
    ],
)
def test_what_does_not_go_with_a_finished_model(options, message):
    result = run_sh(*options)
    assert result.returncode == 1
    assert message in result.stderr


def test_what_a_corpus_yaml_says_can_be_overridden_by_false(calls, tmp_path):
    """Other corpora do not know these options, and are not told."""
    corpus = tmp_path / "voices"
    corpus.mkdir()
    (corpus / "corpus.yaml").write_text("kind: voxceleb\ndownload: true\n")
    options = ("--corpus", corpus, "--stop_stage", "1", "--download", "false", "--subset=false")
    calls(*options)
    assert "--download false" in (tmp_path / "log").read_text()
    assert "--subset" not in (tmp_path / "log").read_text()
    (corpus / "corpus.yaml").write_text("kind: mini\n")
    calls(*options)
    assert "--download" not in (tmp_path / "log").read_text()
    calls(*options[:4], "--download", "true")
    assert "--download true" in (tmp_path / "log").read_text()


def test_options_of_extraction_go_to_every_system(calls, tmp_path):
    calls("--stage", "4", "--stop_stage", "4", "--extract_opts", "--trim_silence false --num_workers 2")
    made = (tmp_path / "log").read_text()
    assert made.count(f"extract --data {tmp_path}/data --trim_silence false --num_workers 2 --exp_dir") == 4


def test_with_initial_weights_their_system_is_a_baseline(calls, tmp_path):
    (tmp_path / "exp" / "qmargin_a1.5" / "initial").mkdir(parents=True)
    assert calls("--stage", "5", "--stop_stage", "5")[1] == [*["score"] * 4, "evaluate", "report"]
    assert "--baseline=initial=" in (tmp_path / "log").read_text()


def test_an_interpreter_that_is_none_is_refused():
    environment = {**os.environ, "PYTHON": "/nowhere/python"}
    result = subprocess.run([ROOT / "run.sh"], capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 1
    assert "PYTHON=/nowhere/python is not a program" in result.stderr


@pytest.mark.parametrize("script", ["run.sh", "tools/test.sh", ".ci/run"])
def test_scripts_are_strict_and_executable(script):
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")


def test_the_script_runs_each_subcommand_in_the_stages_of_the_table():
    """By stage: `wants 5` stands before what stage 5 runs, `wants evaluation` before what ends stages 5 to 7."""
    script = (ROOT / "run.sh").read_text(encoding="utf-8")
    body = script[script.index("train_and_evaluate() {") :]
    found = {}
    numbers = ()
    for wanted, launched in re.findall(r'if wants (\w+); then|(?:wespeaker_qm|launch\}") "\$\{\w+\}" (\w+)', body):
        if wanted:
            numbers = (5, 6, 7) if wanted == "evaluation" else (int(wanted),)
        else:
            found.setdefault(launched, numbers)
    assert found == {name: row.stages for name, row in SUBCOMMANDS.items() if row.stages}
    assert '--log "${folder}/log/$1.log"' in script
    assert str(RunFolder("exp").log("score")) == "exp/log/score.log"


TRAINING = """#!/bin/bash
case "$*" in
*"main train"*) ;;
*) exit 0 ;;
esac
trap 'echo saved; exit 1' TERM
trap 'echo saved; exit 1' INT
echo "$WESPEAKER_QM_COMMAND"
echo "$WESPEAKER_QM_PARENT"
while true; do sleep 0.1; done
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_passed_on_to_the_training_and_the_script_ends_after_it(tmp_path, number):
    stub = tmp_path / "python"
    stub.write_text(TRAINING)
    stub.chmod(0o755)
    command = [ROOT / "run.sh", "--data", tmp_path / "my data", "--exp_root", tmp_path / "exp", "--stage", "3"]
    environment = {**os.environ, "PYTHON": str(stub)}

    def heeding():
        signal.signal(number, signal.SIG_DFL)  # in the background of a script Ctrl-C is ignored, which is inherited

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heeding) as process:
        lines = iter(process.stdout.readline, "")
        told = next(line for line in lines if "my" in line and not line.startswith("20"))
        assert shlex.split(told)[1:3] == ["--data", str(tmp_path / "my data")]
        assert int(next(lines)) == process.pid
        process.send_signal(number)
        assert [line for line in lines if "Stage" not in line] == ["saved\n"]
    assert process.returncode == 128 + number
