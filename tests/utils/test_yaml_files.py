import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.yaml_files import parse_yaml, read_yaml_mapping


@pytest.mark.parametrize(
    ("text", "value"), [("5e-5", 5e-5), ("-1e+3", -1000.0), (".5e1", 5.0), ("1.e2", 100.0), ("12", 12), ("e5", "e5")]
)
def test_numbers_with_an_exponent(text, value):
    assert parse_yaml(text, "here") == value
    assert type(parse_yaml(text, "here")) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "{a: {c: 1, c: 2}}"])
def test_a_key_that_stands_twice_is_refused(text):
    with pytest.raises(RecipeError, match=r"here:\d: not valid YAML: key '[ac]' stands twice"):
        parse_yaml(text, "here")


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="found list, expected a mapping"):
        read_yaml_mapping(path)
    path.write_text("", encoding="utf-8")
    assert read_yaml_mapping(path) == {}
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_yaml_mapping(path)


def test_no_python_objects_are_built():
    with pytest.raises(RecipeError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []", "here")
