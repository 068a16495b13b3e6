"""The paper's Table 5, of runs that are comparable."""

import json
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.report.table5_rows import read_table
from wespeaker_qm.utils.checksums import checksum_path, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

TABLE5 = ["table5", "--data", "data/tiny", "--exp_root", "exp/tiny", "--num_resamples", "50"]

pytestmark = pytest.mark.usefixtures("recipe")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_table5_stands_beside_the_paper():
    assert main(TABLE5) == 0
    text = Path("exp/tiny/table5.md").read_text()
    assert text.startswith("# The losses of Table 5 on tiny\n")
    assert text.index("No voices at all.") < text.index("| loss")
    table = text[text.index("| loss") :].split("\n\n")[0]
    header, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    header = [cell.strip() for cell in header]
    assert header[:4] == ["loss", "tiny: EER", "tiny: TAR@1e-1", "tiny: TAR@1e-2"]
    assert header[-2:] == ["paper, VoxCeleb1-H: TAR@1e-3", "paper, VoxCeleb1-H: TAR@1e-4"]
    assert "not measurable" not in table
    assert "\n\nNot measurable with so few non-target trials: TAR@1e-" in text
    paper = [[float(cell) for cell in line[-2:]] for line in lines]
    assert paper == [
        [86.62, 72.08],
        [86.68, 70.61],
        [84.71, 74.37],
        [87.69, 74.08],
        [87.02, 74.60],
        [87.91, 72.96],
    ]
    for line, row in zip(lines, read_table("conf/table5.yaml").rows, strict=True):
        system = metrics_of(Path("exp/tiny") / row.run)["trial_lists"]["near"]["systems"]["trained"]
        assert line[1].strip().startswith(f"{100 * system['eer']:.2f} (")
    assert lines[0][0].strip() == "ArcFace (s 32, m 0.2) †"
    assert "† **trained here as ArcFace (s 16, m 0.2)**" in text
    assert text.count("**trained here as") == 1
    for suffix in ("png", "pdf"):
        assert Path(f"exp/tiny/det_table5.{suffix}").is_file()
    content = json.loads(Path("exp/tiny/table5.json").read_text())
    assert list(content["tables"]) == ["near"], "all is of other trials"
    found, rows, _ = content["tables"]["near"]
    assert found == header
    assert [row[0] for row in rows] == [line[0].strip() for line in lines]
    assert {each["figure"] for each in content["comparisons"]} >= {"EER", "TAR@FAR 1e-1"}
    assert "How these networks differ on other speakers" in text
    assert Path("exp/tiny/table5.tex").read_text().count(r"\\") == 6


def test_table5_names_missing_rows_and_how_to_make_them(capsys):
    Path("exp/tiny/cosface/metrics.json").unlink()
    assert main(TABLE5) == 1
    message = capsys.readouterr().err
    assert "1 of 6 runs of Table 5 has no metrics.json" in message
    assert "./run.sh --loss conf/loss/cosface.yaml --exp_dir exp/tiny/cosface" in message
    assert main([*TABLE5, "--partial", "true"]) == 0
    lines = Path("exp/tiny/table5.md").read_text().splitlines()
    assert [line.count("not trained") for line in lines if line.startswith("| CosFace")] == [3]
    for path in Path("exp/tiny").glob("*/metrics.json"):
        path.unlink()
    assert main([*TABLE5, "--partial", "true"]) == 1


def test_table5_refuses_scores_that_are_not_those_of_the_metrics(capsys):
    path = Path("exp/tiny/entmax_a2.0/scores/near.score")
    write_checked_text(path, Path("exp/tiny/ltas/scores/near.score").read_text())
    assert main(TABLE5) == 1
    assert "entmax_a2.0/metrics.json: EER" in capsys.readouterr().err


def test_table5_refuses_another_order_of_trials(capsys):
    path = Path("exp/tiny/entmax_a1.75/scores/near.score")
    write_checked_text(path, "".join(reversed(path.read_text().splitlines(keepends=True))))
    assert main(TABLE5) == 1
    assert "entmax_a1.75/scores/near.score: not the trials of" in capsys.readouterr().err


def test_table5_refuses_another_corpus(capsys):
    info = Path("data/tiny/corpus.yaml")
    info.write_text(info.read_text().replace("name: tiny", "name: other"))
    assert main(TABLE5) == 1
    assert "figures of tiny/near, expected other/near" in capsys.readouterr().err


def test_table5_lists_its_losses_for_the_shell(capsys):
    assert main(["table5", "--list_losses", "true"]) == 0
    losses = capsys.readouterr().out.split()
    assert len(losses) == 6
    for loss, row in zip(losses, read_table("conf/table5.yaml").rows, strict=True):
        overlay = read_yaml_mapping(loss)
        assert overlay["projection_args"]["scale"] == row.card.scale
        assert overlay["projection_args"].get("alpha") == row.card.alpha
        assert overlay["margin_update"]["final_margin"] == row.card.margin


def test_table5_refuses_a_file_without_a_key_and_a_call_without_folders(capsys):
    Path("table.yaml").write_text("paper: x\nrows: [{name: ArcFace}]\n")
    assert main(["table5", "--list_losses", "true", "--table", "table.yaml"]) == 1
    assert "table.yaml: KeyError('alpha')" in capsys.readouterr().err
    assert main(["table5"]) == 1
    assert "--data and --exp_root are needed" in capsys.readouterr().err


def test_table5_refuses_runs_of_other_embeddings(capsys):
    mean = Path("exp/tiny/cosface/embeddings/mean_vec.npy")
    np.save(mean, np.full(16, 0.2, np.float32))
    checksum_path(mean).unlink(missing_ok=True)
    assert main(TABLE5) == 1
    assert "exp/tiny/cosface: stage score must run again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("conf/loss/cosface.yaml", "elsewhere/arcface.yaml", "would both be the run arcface"),
        ("name: CosFace", "name: ArcFace", r"are both called ArcFace \(s 32, m 0.2\)"),
        ('"1e-3": 86.68', '"x": 86.68', "could not convert string to float"),
    ],
)
def test_table5_refuses_rows_that_cannot_be_told_apart(old, new, message):
    text = Path("conf/table5.yaml").read_text()
    assert old in text
    Path("table.yaml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        read_table("table.yaml")


def test_table5_takes_the_papers_rates_as_numbers():
    text = Path("conf/table5.yaml").read_text().replace('"1e-3": 86.68', "0.001: 86.68")
    Path("table.yaml").write_text(text)
    assert [row.paper_tar for row in read_table("table.yaml").rows] == [
        row.paper_tar for row in read_table("conf/table5.yaml").rows
    ]
