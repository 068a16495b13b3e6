"""The page of all configuration keys has all of them."""

import importlib.util
from types import ModuleType
from typing import Annotated, Literal

import pytest
from pydantic import Field

from wespeaker_qm.config import schema_keys


@pytest.fixture(scope="module")
def table(repository) -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_table", repository / "docs/config_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_key_is_there_once_with_what_it_is(table):
    keys = table.all_keys()
    names = [key.name for key in keys]
    assert len(names) == len(set(names))
    leaves = {key for key in schema_keys() if not any(other.startswith(f"{key}.") for other in schema_keys())}
    plain = {name.partition(" ")[0] for name in names}
    assert plain == leaves | {"model_args", "projection_args"}
    for key in keys:
        assert key.kind, key
        assert key.text, key


def test_a_row(table):
    rows = {key.name: key for key in table.all_keys()}
    assert rows["device"][1:3] == ("auto or cpu or cuda", "auto")
    assert rows["channels_last"][1:3] == ("true or false", "false")
    assert rows["model_init"][1:3] == ("text or null", "null")
    assert rows["dataset_args.aug_prob"][1:3] == ("number, ≥ 0, ≤ 1", "0.6")
    assert rows["projection_args.reinit_epoch (alpha_arc_margin)"][1:3] == ("integer, ≥ 1 or null", "null")
    assert "projection_args.scale" in rows
    assert "projection_args.easy_margin (arc_margin)" in rows
    assert rows["model_args.stem_stride"].kind == "1 or 2"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[float, Field(gt=0, lt=1)], "number, > 0, < 1"),
        (Literal[True], "true"),
        (Annotated[int, Field(ge=1)] | None, "integer, ≥ 1 or null"),
    ],
)
def test_types_in_words(table, hint, words):
    assert table.kind_of(hint) == words
