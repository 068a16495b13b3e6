"""Programs side by side in one folder, and over files that they have not made: refused by name, nothing touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.config import Config
from wespeaker_qm.utils.ownership import LEDGER

RUN = Path("exp/tiny/qmargin_a1.5")
DATA = ["--data", "data/tiny"]
EXP = [*DATA, "--exp_dir", str(RUN)]


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    """Function: the command line of a training into ``tmp_path / name``."""
    tiny_config.save(tmp_path / "conf.yaml")

    def command(name: str, *overrides: str) -> list[str]:
        places = [
            "--data",
            str(tiny_corpus),
            "--exp_dir",
            str(tmp_path / name),
            "--config",
            str(tmp_path / "conf.yaml"),
        ]
        return ["train", *places, "--set", *overrides]

    return command


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a program says that ends with 1."""
    capsys.readouterr()
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_two_losses_into_one_folder(train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = subprocess.Popen(
        [sys.executable, "-m", "wespeaker_qm.bin.main", *train("run", "num_epochs=200")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (tmp_path / "run" / "models" / "model_1.pt").exists():
            assert first.poll() is None
            time.sleep(0.05)
        other = train("run", "projection_args.project_type=add_margin", "projection_args.scale=32")
        assert f"in use by process {first.pid} on " in refused(capsys, *other)
        assert f"in use by process {first.pid} on " in refused(capsys, "average", "--exp_dir", str(tmp_path / "run"))
        # On the same data, into a folder of its own.
        assert main(train("other", "num_epochs=1", "margin_update.fix_start_epoch=3")) == 0
        # Nobody packs under them.
        data = train("run")[2]
        assert f"process {first.pid}" in refused(capsys, "pack", "--data", data, "--utterances_per_shard", "5")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "q_margin" in config and "add_margin" not in config
    # The dead one keeps nobody out.
    assert "in use" not in refused(capsys, *other)


def test_a_run_of_wespeaker_is_not_trained_over(train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "run" / "models"
    models.mkdir(parents=True)
    (models / "model_1.pt").write_bytes(b"theirs")
    (tmp_path / "run" / "config.yaml").write_text("theirs: 1\n")
    before = contents(tmp_path)
    message = refused(capsys, *train("run"))
    assert "run/config.yaml" in message and "run/models/model_1.pt" in message and "nothing has been touched" in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["train/xvector.scp", "eval/xvector.ark", "mean_vec.npy"])
def test_embeddings_of_somebody_else_stay(
    tiny_corpus: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "exp" / "embeddings" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine\n")
    extract = ["extract", "--ltas", "--data", str(tiny_corpus), "--exp_dir", str(tmp_path / "exp")]
    assert name in refused(capsys, *extract)
    assert contents(tmp_path) == {path: b"mine\n"}


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scores/all.score", ["score", *EXP]),
        ("scores/near.asnorm.score.npz", ["normalise", *EXP]),
        ("embeddings/train/spk_xvector.ark", ["normalise", *EXP]),
        ("report.md", ["evaluate", *EXP, "--num_resamples", "0"]),
        ("det.pdf", ["evaluate", *EXP, "--num_resamples", "0"]),
        ("report.html", ["report", *EXP]),
        ("models/avg_model.pt", ["average", "--exp_dir", str(RUN)]),
        ("../table5.md", ["table5", *DATA, "--exp_root", "exp/tiny", "--num_resamples", "0"]),
        ("../det_table5.png", ["table5", *DATA, "--exp_root", "exp/tiny", "--num_resamples", "0"]),
    ],
)
def test_no_stage_writes_over_what_it_has_not_made(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # As if the stage had never been here.
    outputs = ["metrics.json", "report.md", "report.tex", "det.png", "det.pdf", "training.png"]
    outputs = outputs if arguments[0] == "evaluate" else ["scores/near.score", "scores/all.score"]
    if arguments[0] in ("score", "evaluate"):
        for output in outputs:
            (RUN / output).unlink()
            (RUN / f"{output}.npz").unlink(missing_ok=True)
    for path in (RUN / ".done" / arguments[0], RUN / name):
        path.unlink(missing_ok=True)
    for ledger in (RUN / LEDGER, RUN.parent / LEDGER):
        known = ledger.read_text().splitlines() if ledger.exists() else []
        ledger.write_text("\n".join(["files", "another", *(line for line in known if line not in (*outputs, name))]))
    (RUN / name).parent.mkdir(parents=True, exist_ok=True)
    (RUN / name).write_text("mine\n")
    before = contents(Path("exp"))
    assert Path(name).name in refused(capsys, *arguments)
    assert {path: path.read_bytes() for path in before if path.name != LEDGER} == {
        path: content for path, content in before.items() if path.name != LEDGER
    }


@pytest.mark.usefixtures("recipe")
def test_what_was_made_is_made_again_when_its_marker_is_deleted() -> None:
    assert main(["report", *EXP]) == 0
    for stage, arguments in {"report": ["report", *EXP], "score": ["score", *EXP]}.items():
        (RUN / ".done" / stage).unlink()
        assert main(arguments) == 0


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("content", ["mine\n", "[1]", "{}", '{"mine": 1}', '[{"mine": 1}]'])
def test_results_go_over_results_only(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = str(RUN / "scores" / "near.score")
    speakers = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "20"]
    metrics = ["metrics", scores, *speakers]
    compare = ["compare", f"a={scores}", "b=exp/tiny/cosface/scores/near.score", *speakers]
    for arguments in (metrics, compare):
        path = tmp_path / "out.json"
        path.write_text(content)
        assert "out.json: exists, and is no result of this program" in refused(capsys, *arguments, "--json", str(path))
        assert path.read_text() == content
        path.unlink()
        for _ in range(2):
            assert main([*arguments, "--json", str(path)]) == 0
        json.loads(path.read_text())


@pytest.mark.usefixtures("recipe")
def test_figures_go_over_figures_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["metrics", str(RUN / "scores" / "near.score"), "--num_resamples", "0", "--det", str(tmp_path / "det")]
    for _ in range(2):
        assert main(arguments) == 0
    (tmp_path / "det.pdf").write_bytes(b"%PDF mine")
    before = contents(tmp_path)
    assert "det.pdf: exists, and is no figure of this program" in refused(capsys, *arguments)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("recipe")
def test_links_and_devices_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "target.json").write_text('{"mine": 1}')
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    metrics = ["metrics", str(RUN / "scores" / "near.score"), "--num_resamples", "0", "--json"]
    assert "link.json: " in refused(capsys, *metrics, str(tmp_path / "link.json"))
    (tmp_path / "link.json").unlink()
    (tmp_path / "link.json").symlink_to(tmp_path / "nothing")
    assert "link.json: is a symbolic link" in refused(capsys, *metrics, str(tmp_path / "link.json"))
    assert "is a folder" in refused(capsys, *metrics, str(tmp_path))
    assert (tmp_path / "target.json").read_text() == '{"mine": 1}'
