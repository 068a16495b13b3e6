"""A file that no stage has made is refused, before anything is touched."""

import json

import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import LEDGER, PLOT_MARK, claim, refuse_plots, take_folder, write_json


def test_what_was_claimed_may_be_replaced_and_nothing_else(tmp_path):
    claim(tmp_path, [tmp_path / "report.html"])
    (tmp_path / "report.html").write_text("ours")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "all.score").write_text("theirs")
    with pytest.raises(RecipeError, match=r"(?s)holds 1 file.*scores/all\.score\nMove them away"):
        claim(tmp_path, [tmp_path / "report.html", tmp_path / "scores" / "all.score"])
    assert (tmp_path / LEDGER).read_text().splitlines()[1:] == ["report.html"]
    (tmp_path / "scores" / "all.score").unlink()
    claim(tmp_path, [tmp_path / "scores" / "all.score"])
    (tmp_path / "scores" / "all.score").write_text("ours")
    claim(tmp_path, [tmp_path / "scores" / "all.score", tmp_path / "report.html"])


def test_an_empty_folder_is_nobodys_and_a_full_one_is(tmp_path):
    (tmp_path / "wav").mkdir()
    claim(tmp_path, [tmp_path / "wav"])
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "mine.wav").touch()
    with pytest.raises(RecipeError, match="noise"):
        claim(tmp_path, [tmp_path / "noise"])


def test_a_link_is_somebodys_wherever_it_leads(tmp_path):
    (tmp_path / "det.png").symlink_to("nowhere")
    with pytest.raises(RecipeError, match=r"det\.png"):
        claim(tmp_path, [tmp_path / "det.png"])


def test_folders_of_versions_without_a_ledger(tmp_path):
    model = tmp_path / "models" / "model_1.pt"
    model.parent.mkdir()
    model.touch()
    for content in ("", "[1]", '{"wespeaker": 1}'):
        (tmp_path / "provenance.json").write_text(content)
        with pytest.raises(RecipeError, match=r"model_1\.pt"):
            claim(tmp_path, [model])
    (tmp_path / "provenance.json").write_text(json.dumps({"wespeaker_qm": "0.1.0"}))
    (tmp_path / "scores").touch()
    claim(tmp_path, [model])
    claim(tmp_path, [tmp_path / "scores"])  # another stage of that version made it
    (tmp_path / "report.html").touch()
    claim(tmp_path, [tmp_path / "det.png"])  # what lies there is taken for ours once, when the ledger is begun
    with pytest.raises(RecipeError, match=r"report\.html"):
        claim(tmp_path, [tmp_path / "report.html"])
    claim(tmp_path, [tmp_path / "report.html"], made_before=True)
    (tmp_path / "data" / ".done").mkdir(parents=True)  # its marker was deleted, to force the stage
    (tmp_path / "data" / "corpus.yaml").touch()
    claim(tmp_path / "data", [tmp_path / "data" / "corpus.yaml"])


def test_a_folder_is_taken_once_and_only_an_empty_one(tmp_path):
    take_folder(tmp_path / "new")
    (tmp_path / "new" / "ours").touch()
    take_folder(tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "vox2_dev_aac_partaa").touch()
    with pytest.raises(RecipeError, match=r"full: holds files that wespeaker-qm has not made"):
        take_folder(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["vox2_dev_aac_partaa"]
    take_folder(tmp_path / "full", made_before=True)


def test_a_result_replaces_nothing_but_a_result_of_its_kind(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"eer": 0.1, "lists": []})
    for alike in ({"eer": 0.2, "lists": [], "new": 1}, {"eer": 0.2}, {"eer": 0.3, "lists": []}):  # of other versions
        write_json(path, alike)
        assert json.loads(path.read_text()) == alike
    for other in ({}, {"cllr": 1}, {"eer": 1, "cllr": 1}, [{"eer": 1, "lists": []}]):
        path.write_text(json.dumps(other))
        with pytest.raises(RecipeError, match=r"result\.json: exists, and is no result of this program"):
            write_json(path, {"eer": 0.4, "lists": []})
        assert json.loads(path.read_text()) == other
    for text in ("mine", ""):
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"result\.json: exists"):
            write_json(path, {"eer": 0.4})


def test_a_list_of_results_replaces_an_empty_one_or_one_of_such_results(tmp_path):
    path = tmp_path / "result.json"
    for rows in ([], [{"far": 0.1}], [{"far": 0.2, "tar": 1}], [], [{"far": 0.3}]):
        write_json(path, rows)
        assert json.loads(path.read_text()) == rows
    with pytest.raises(RecipeError, match=r"result\.json: exists"):
        write_json(path, [{"eer": 0.3}])


def test_only_plots_of_ours_are_drawn_over(tmp_path):
    (tmp_path / "ours.png").write_bytes(b"\x89PNG Software " + PLOT_MARK.encode() + b" 1")
    (tmp_path / "theirs.png").write_bytes(b"\x89PNG Software other 1")
    refuse_plots([tmp_path / "ours.png", tmp_path / "none.png"])
    with pytest.raises(RecipeError, match=r"theirs\.png: exists, and is no figure of this program"):
        refuse_plots([tmp_path / "ours.png", tmp_path / "theirs.png"])
