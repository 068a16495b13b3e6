"""A corpus to be damaged, score files of any origin, and files that change unseen."""

import os
import shutil
from pathlib import Path

import pytest

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.utils.checksums import checksum_path
from wespeaker_qm.utils.layout import DataFolder

RUN = Path("exp/tiny/qmargin_a1.5")
FOREIGN = """\
id1/a/1.wav id1/b/1.wav 0.9
id2/a/1.wav id2/b/1.wav 0.8
id3/a/1.wav id3/b/1.wav 0.4
id4/a/1.wav id4/b/1.wav 0.7
id5/a/1.wav id5/b/1.wav 0.95
id1/a/1.wav id2/b/1.wav 0.1
id2/a/1.wav id3/b/1.wav 0.5
id3/a/1.wav id4/b/1.wav 0.2
id4/a/1.wav id5/b/1.wav 0.3
id5/a/1.wav id1/b/1.wav 0.15
"""


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> DataFolder:
    """A copy of the tiny corpus, whose lists name the tars of the copy."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_corpus, folder)
    for name in ("train", "eval", "noise", "rirs"):
        shutil.rmtree(folder / name / "shards")
        (folder / name / "shard.list").unlink()
    stages.pack(data=folder, utterances_per_shard=10)
    return DataFolder(folder)


@pytest.fixture
def replaced():
    """Function: write another content of the same size, with the old times: what rsync and cp -p can do."""

    def replace(path, content):
        status = path.stat()
        assert len(content) == status.st_size
        assert content != path.read_bytes()
        path.write_bytes(content)
        checksum_path(path).unlink(missing_ok=True)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return replace


@pytest.fixture
def calibrated():
    """Options of a run that is normalised and calibrated."""
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    assert main(["normalise", *exp_dir, "--top_n", "5"]) == 0
    assert main(["calibrate", *exp_dir, "--top_n", "5"]) == 0
    return [*exp_dir, "--top_n", "5"]


@pytest.fixture
def foreign():
    """Kaldi's scores without labels, and VoxCeleb's list of the same trials in another order."""
    Path("kaldi.score").write_text(FOREIGN)
    trials = [line.split()[:2] for line in FOREIGN.splitlines()][::-1]
    lines = [f"{int(one.split('/')[0] == two.split('/')[0])} {one} {two}\n" for one, two in trials]
    Path("veri_test.txt").write_text("".join(lines))
    return ["kaldi.score", "--trials", "veri_test.txt"]


@pytest.fixture
def below_one_folder():
    """Scores of 8 targets and 8 non-targets whose names all begin with one folder, which is no speaker."""
    targets = [f"wav/s{n}/1 wav/s{n}/2 {0.5 + 0.01 * n:.2f} target\n" for n in range(8)]
    nontargets = [f"wav/s{n}/1 wav/s{(n + 1) % 8}/1 {0.01 * n:.2f} nontarget\n" for n in range(8)]
    Path("below.score").write_text("".join(targets + nontargets))
    Path("utt2spk").write_text("".join(f"wav/s{n}/{k} s{n}\n" for n in range(8) for k in (1, 2)))
    return "below.score"
