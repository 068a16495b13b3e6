"""Settings of a corpus: what corpus.yaml and callers may say, and what they are told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml

from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.settings import Setting, declared, lists_by_name, names, option_defaults, read_settings
from wespeaker_qm.corpora.table import CORPORA
from wespeaker_qm.utils.arguments import COUNT, FRACTION, true_or_false
from wespeaker_qm.utils.errors import RecipeError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Toy:
    title: Annotated[str, Setting(str)]
    root: Annotated[Path | None, Setting(Path, "where it is")] = None
    num_rooms: Annotated[int, Setting(COUNT, "rooms")] = 3
    part: Annotated[float, Setting(FRACTION, "how much")] = 0.5
    is_whole: Annotated[bool, Setting(true_or_false, "all of it", is_flag=True)] = False
    people: Annotated[list[str], Setting(str, from_yaml=names)] = field(default_factory=list)
    expected: Annotated[dict[str, list[int]], Setting(str, from_yaml=lists_by_name(int))] = field(default_factory=dict)


@pytest.fixture
def recipe_dir(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def write(folder: Path, **values: Any) -> None:
    (folder / "corpus.yaml").write_text(yaml.safe_dump({"kind": "toy", "title": "Toy", **values}))


def test_options_override_the_file_which_overrides_the_defaults(recipe_dir: Path) -> None:
    assert read_settings(Toy, recipe_dir) == Toy(title="Toy")
    write(recipe_dir, num_rooms=5, part=1, people=["anna"], expected={"train": [2, 9]}, is_whole=True, root="/a")
    found = read_settings(Toy, recipe_dir, {"num_rooms": 7, "root": None})
    assert found == Toy(title="Toy", num_rooms=7, part=1.0, people=["anna"], expected={"train": [2, 9]}, is_whole=True)
    assert type(found.part) is float
    assert read_settings(Toy, recipe_dir).root == Path("/a")


def test_the_file_gives_the_defaults_of_options_and_of_nothing_else(recipe_dir: Path) -> None:
    write(recipe_dir, num_rooms=5, people="whatever", titel="is told when it is prepared")
    assert option_defaults(Toy, recipe_dir) == {"root": None, "num_rooms": 5, "part": 0.5, "is_whole": False}
    assert list(declared(Toy)) == ["title", "root", "num_rooms", "part", "is_whole", "people", "expected"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_room": 3}, r"unknown key 'num_room'; nearest: num_rooms"),
        ({"num_rooms": 0}, r"num_rooms: found '0', expected a whole number of at least 1"),
        ({"num_rooms": 2.5}, r"num_rooms: found '2.5', expected a whole number"),
        ({"num_rooms": True}, r"num_rooms: found 'true', expected a whole number"),
        ({"num_rooms": [3]}, r"num_rooms: found \[3\], expected a single value"),
        ({"num_rooms": None}, r"num_rooms: found nothing, expected a value"),
        ({"part": float("nan")}, r"part: found 'nan', expected a number from 0 to 1"),
        ({"is_whole": "yes"}, r"is_whole: found 'yes', expected true or false"),
        ({"people": "anna"}, r"people: found 'anna', expected a list of names"),
        ({"people": [1]}, r"people: found \[1\], expected a list of names; put what YAML .* between quotes: 1$"),
        ({"people": ["anna", None]}, r"people: found .* takes for something else between quotes: None$"),
        ({"expected": {"train": 2}}, r"expected: found \{'train': 2\}, expected names, each with a list of int"),
        ({"expected": {"train": ["2"]}}, r"expected: found \{'train': \['2'\]\}"),
        ({"expected": [2]}, r"expected: found \[2\]"),
    ],
)
def test_what_means_nothing_is_refused_with_its_name(recipe_dir: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^options: {message}"):
        read_settings(Toy, recipe_dir, values)
    write(recipe_dir, **values)
    with pytest.raises(RecipeError, match=rf"corpus\.yaml: {message}"):
        read_settings(Toy, recipe_dir)


def test_a_key_that_must_be_there(recipe_dir: Path) -> None:
    (recipe_dir / "corpus.yaml").write_text("kind: toy\n")
    with pytest.raises(RecipeError, match=r"corpus\.yaml: key 'title' is missing"):
        read_settings(Toy, recipe_dir)


@pytest.mark.parametrize("kind", CORPORA)
def test_the_recipes_in_egs_can_be_read(kind: str) -> None:
    assert read_settings(CORPORA[kind].settings, ROOT / "egs" / kind) is not None


def test_places_of_packages_may_stand_in_the_file(tmp_path: Path) -> None:
    """As the help says: a key that bears an option's name is that option's default."""
    values = yaml.safe_load((ROOT / "egs" / "mini" / "corpus.yaml").read_text())
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump({**values, "downloads": "/debs", "without_tuxpaint": True}))
    found = read_settings(MiniSettings, tmp_path)
    assert found.downloads == Path("/debs") and found.without_tuxpaint
