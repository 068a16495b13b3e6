"""Systems beside each other on the same trials, each run once."""

import json
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main

RUN = Path("exp/tiny/qmargin_a1.5")

pytestmark = pytest.mark.usefixtures("recipe")


def test_compare_systems_and_seeds(capsys):
    def system(name):
        return f"exp/tiny/{name}/scores/all.score"

    options = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "60", "--figures", "EER", "TAR@FAR 1e-1"]
    systems = [f"q={system('qmargin_a1.5')}", f"ltas={system('ltas')}"]
    assert main(["compare", *systems, *options, "--json", "c.json"]) == 0
    shown = capsys.readouterr().out
    assert "EER: ltas less q" in shown
    first, second = json.loads(Path("c.json").read_text())
    assert (first["figure"], first["one"], first["two"]) == ("EER", "q", "ltas")
    assert first["low"] < first["difference"] < first["high"]
    assert second["difference"] < 0
    both = f"margin={system('qmargin_a1.5')},{system('qmargin_a1.75')}"
    assert main(["compare", both, systems[1], *options]) == 0
    shown = capsys.readouterr().out
    assert "deviation of 2 runs" in shown
    assert "One run of ltas: its own interval leaves seeds out" in shown
    assert main(["compare", *systems, "--utt2spk", "data/tiny/eval/utt2spk", "--figures", "eer"]) == 1
    assert "--figures: found eer, expected some of: EER" in capsys.readouterr().err
    assert main(["compare", *systems]) == 1
    assert "it is not known who speaks" in capsys.readouterr().err
    assert main(["compare", systems[0], systems[0], *options]) == 1
    with pytest.raises(SystemExit):
        main(["compare", "q"])


def test_compare_takes_any_rate_however_it_is_spelt(capsys):
    systems = [f"q={RUN}/scores/all.score", "ltas=exp/tiny/ltas/scores/all.score"]
    asked = ["--figures", "TAR@FAR 0.10", "TAR@FAR 1e-1", "TAR@FAR 0.101", "minDCF 5e-2", "FAR@TAR 0.85"]
    options = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "40", "--json", "c.json"]
    assert main(["compare", *systems, *asked, *options]) == 0
    figures = [each["figure"] for each in json.loads(Path("c.json").read_text())]
    assert figures == ["TAR@FAR 1e-1", "TAR@FAR 1.01e-1", "minDCF 0.05", "FAR@TAR 0.85"]
    for nonsense in ("TAR@FAR 2", "TAR@FAR nan", "minDCF x"):
        assert main(["compare", *systems, "--figures", nonsense, *options]) == 1
        assert f"--figures: found {nonsense}, expected some of: EER" in capsys.readouterr().err


def test_compare_takes_each_run_once(capsys):
    one, two = f"{RUN}/scores/all.score", f"{RUN}/../{RUN.name}/scores/all.score"
    assert main(["compare", f"a={one},{two}", "b=exp/tiny/ltas/scores/all.score"]) == 1
    assert "qmargin_a1.5/scores/all.score: stands twice, expected each run once" in capsys.readouterr().err


def as_text(path):
    Path("copy.score").write_bytes(path.read_bytes())


def as_a_link(path):
    Path("copy.score").hardlink_to(path)


def in_another_order(path):
    """And with labels, as another program may have written the same scores."""
    lines = path.read_text().splitlines(keepends=True)
    Path("copy.score").write_text("".join(reversed(lines)))


@pytest.mark.parametrize("copy", [as_text, as_a_link, in_another_order])
def test_a_copy_of_a_run_is_no_second_seed(copy, capsys):
    one, other = RUN / "scores" / "all.score", "exp/tiny/qmargin_a1.75/scores/all.score"
    copy(one)
    options = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "40", "--figures", "EER"]
    assert main(["compare", f"a={one},{other},copy.score", "b=exp/tiny/ltas/scores/all.score", *options]) == 1
    assert f"a: {one} and copy.score hold the same scores, expected runs that differ" in capsys.readouterr().err
    assert main(["compare", f"a={one},{other}", "b=copy.score", *options]) == 0  # two systems may be as good as one


def test_a_comparison_says_how_to_tell_who_speaks(below_one_folder, capsys):
    Path("other.score").write_text(Path(below_one_folder).read_text().replace("0.0", "0.1"))
    systems = ["compare", f"a={below_one_folder}", "b=other.score", "--num_resamples", "40"]
    assert main(systems) == 1
    message = capsys.readouterr().err
    assert "labels say otherwise" in message
    assert "it is not known who speaks: name the speakers of the utterances (--utt2spk)" in message
    assert main([*systems, "--utt2spk", "utt2spk"]) == 0
