import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.yaml_files import dump_yaml, parse_yaml, read_yaml_mapping


@pytest.mark.parametrize(
    ("text", "value"), [("5e-5", 5e-5), ("-1e+3", -1000.0), (".5e1", 5.0), ("1.e2", 100.0), ("12", 12), ("e5", "e5")]
)
def test_numbers_with_an_exponent(text, value):
    assert parse_yaml(text, "here") == value
    assert type(parse_yaml(text, "here")) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "here:3: not valid YAML: key 'a' stands twice"),
        ("{a: {c: 1, c: 2}}", "here:1: not valid YAML: key 'c' stands twice"),
        ("a: 1\nb: [2\n", "here:3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: *b\n", "here:1: not valid YAML: found undefined alias 'b'"),
        ("a: \x01\n", "here: not valid YAML: unacceptable character #x0001"),  # without a line
    ],
)
def test_what_is_not_valid_is_said_with_its_line(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "here")
    assert str(caught.value).startswith(message)


def _chain(start: str, link: str) -> str:
    """Thirty lines, each of which says nine times what the one before says."""
    lines = [f"a0: &a0 {start}"]
    for number in range(1, 30):
        nine = ", ".join(9 * [f"*a{number - 1}"])
        lines.append(f"a{number}: &a{number} {link.format(nine)}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_chain("[x]", "[{}]"), "here:6: not valid YAML: more than 100,000 values, aliases"),
        (_chain("{x: 1}", "{{<<: [{}]}}"), "here:6: not valid YAML: more than 100,000 values, aliases"),
        ("b: 1\na: &a [*a]\n", "here:2: not valid YAML: a value within itself, aliases"),
        ("a: &a {b: *a}\n", "here:1: not valid YAML: a value within itself, aliases"),
        ("&a {<<: *a}", "here:1: not valid YAML: a value within itself, aliases"),
        ("[" * 10_000, "here: not valid YAML: values are nested too deeply"),
        ("a: " + "9" * 5000, "here: not valid YAML: a value is not of its kind (Exceeds the limit"),
        ("a: 2024-13-45", "here: not valid YAML: a value is not of its kind (month must be in 1..12)"),
        ("a: !!bool 7", "here: not valid YAML: a value is not of its kind"),
        ("a: !!timestamp 7", "here: not valid YAML: a value is not of its kind"),
    ],
)
def test_what_hangs_or_breaks_other_readers_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "here")
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 400


def test_what_is_far_too_long_is_refused_before_it_is_read():
    with pytest.raises(
        RecipeError, match=r"^wav\.scp: found 2,000,001 characters, expected YAML of at most 2,000,000;"
    ):
        parse_yaml("x" * 2_000_001, "wav.scp")


def test_long_lists_without_aliases_are_taken():
    assert parse_yaml("[" + "1," * 100_001 + "]", "here") == [1] * 100_001


def test_advice_on_aliases_and_dates_works():
    assert parse_yaml("a: '2024-13-45'", "here") == {"a": "2024-13-45"}
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {d: *x}\n", "here") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot read this file: No such file or directory"):
        read_yaml_mapping(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(RecipeError, match=r"bad\.yaml:2: not valid YAML"):
        read_yaml_mapping(tmp_path / "bad.yaml")


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


@pytest.mark.parametrize(
    "name",
    ["1e5", "5e-5", "-1.e3", ".5E7", "007", "1_000", "0x1F", "12:30:45", "2024-01-01", "nan", ".nan", "null", "~",
     "yes", "true", "-", "--help", "a: b", "#x", "a #b", "!tag", "&a", "*a", "%", "@", "=", "<<", "[a]", "José",
     "Jose\u0301",
     "a\u202fb", " a ", "a\nb", ""],
)  # fmt: skip
def test_text_is_written_so_that_it_is_read_back_as_text(name):
    """A corpus or a run may have any name."""
    assert parse_yaml(dump_yaml({name: name, "list": [name]}), "x") == {name: name, "list": [name]}


def test_merged_keys_are_taken_and_those_beside_them_win():
    text = "base: &base {x: 1, y: 2}\nown: {<<: *base, y: 3}\nboth: {<<: [*base, {z: 4}]}\n"
    assert parse_yaml(text, "here") == {
        "base": {"x": 1, "y": 2},
        "own": {"x": 1, "y": 3},
        "both": {"x": 1, "y": 2, "z": 4},
    }
    with pytest.raises(RecipeError, match="here:1: not valid YAML: key 'y' stands twice"):
        parse_yaml("{<<: {x: 1}, y: 2, y: 3}", "here")


@pytest.mark.parametrize(
    "text", ["a: !!int ''", "a: !!float ''", "a: !!set {[1]: }", "a: 1" + ":59" * 400, "a: 1" + ":59" * 400 + ".5"]
)
def test_what_pyyaml_stumbles_over_is_told(text):
    with pytest.raises(RecipeError, match=r"^here(:1)?: not valid YAML: "):
        parse_yaml(text, "here")


@pytest.mark.parametrize("key", ["2024-01-01", "!!binary aGVsbG8=", "? 2024-01-01 00:00:00\n"])
def test_a_key_that_is_no_text_is_told_with_what_to_do(key):
    with pytest.raises(RecipeError, match=r"here:1: not valid YAML: key .* is no text; put it between quotes"):
        parse_yaml(f"{key}: 1", "here")
    assert parse_yaml("'2024-01-01': 1", "here") == {"2024-01-01": 1}


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\n" * 2_000_000)
    with pytest.raises(
        RecipeError, match=r"x\.yaml: found 10,000,000 bytes, expected YAML of at most 2,000,000; is it"
    ):
        read_yaml_mapping(path)
