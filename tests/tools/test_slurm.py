"""tools/slurm/train.sbatch: the job that is about to end is queued again once its training has saved its state."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "slurm" / "train.sbatch"
RUN_SH = """#!/usr/bin/env bash
trap 'echo saved >>told; exit 143' TERM
echo "$@" >>told
echo at work
if [ -f finished ]; then exit 0; fi
if [ -f failing ]; then exit 1; fi
while true; do sleep 0.1; done
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then printf 'one\\ntwo\\n'; else echo "scontrol $@" >>told; fi
"""
SRUN = """#!/usr/bin/env bash
echo srun >>told
exec "${@:2}"
"""


@pytest.fixture
def job(tmp_path: Path):
    """Function: the process of a job in ``tmp_path``, whose ``told`` says what was called."""
    for name, text in (("run.sh", RUN_SH), ("bin/scontrol", SCONTROL), ("bin/srun", SRUN)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(*options: str, **slurm: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **slurm}
        return subprocess.Popen([SCRIPT, *options], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def test_a_job_that_is_told_of_its_end_is_queued_again(job, tmp_path: Path) -> None:
    process = job("--stage", "3", SLURM_GPUS_ON_NODE="4")
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    assert process.returncode == 143
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["--num_processes 4 --stage 3", "saved", "scontrol requeue 7"]


@pytest.mark.parametrize(("name", "status"), [("finished", 0), ("failing", 1)])
def test_a_job_that_ends_by_itself_is_not(job, tmp_path: Path, name: str, status: int) -> None:
    (tmp_path / name).touch()
    process = job()
    process.communicate()
    assert process.returncode == status
    assert (tmp_path / "told").read_text() == "--num_processes 1\n"


def test_several_machines_know_the_first(job, tmp_path: Path) -> None:
    (tmp_path / "finished").touch()
    process = job(SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="n[1-2]")
    process.communicate()
    assert process.returncode == 0
    options = "--num_processes 1 --num_nodes 2 --HOST_NODE_ADDR one:29400 --job_id 7"
    assert (tmp_path / "told").read_text().splitlines() == ["srun", options]
