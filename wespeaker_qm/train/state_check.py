"""Whether the state of a training is one that can be gone on from: that nothing in it is of another kind, and that its
tensors are those of the network and the optimiser.

Whoever wants to know asks here: the training that goes on, and ``verify-data``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from wespeaker_qm.config import config_of
from wespeaker_qm.config.messages import EXPECTED
from wespeaker_qm.dataset.training_set import num_classes
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.network.checkpoint import refuse_not_finite
from wespeaker_qm.train.build import build_head, build_optimizer
from wespeaker_qm.train.model import PROTOTYPES, EncoderWithHead
from wespeaker_qm.utils.errors import RecipeError, counted, shown
from wespeaker_qm.utils.yaml_files import parse_yaml

_ABSENT = "absent"
_PARAMETERS = ".params"

Number = Annotated[int, Field(ge=0, le=2**53)]
FromOne = Annotated[int, Field(ge=1, le=2**53)]


def _no_object(value: Any) -> Any:
    """Pydantic takes for a number what can be made one, such as a tensor."""
    if not isinstance(value, int | float):
        raise ValueError("a number")
    return value


Figure = Annotated[float, BeforeValidator(_no_object)]


def _settings(text: str) -> str:
    """The configuration's text, as which a mapping was written."""
    try:
        values = parse_yaml(text, "YAML")
        size = values["dataloader_args"]["batch_size"]
    except (RecipeError, KeyError, TypeError) as error:
        raise ValueError(f"a configuration with dataloader_args.batch_size ({shown(error)})") from None
    if type(size) is not int or size < 1:
        raise ValueError(f"a configuration whose dataloader_args.batch_size is 1 or more, not {shown(size)}")
    return text


def _loaded(load: Callable[[Any], object], what: str) -> AfterValidator:
    """What is taken by a new object of its kind."""

    def check(value: Any) -> Any:
        try:
            load(value)
        except Exception as error:  # PyTorch's, of any kind
            raise ValueError(f"{what} ({' '.join(str(error).split())})") from None
        return value

    return AfterValidator(check)


def _load_scaler(state: dict[str, Any]) -> None:
    if state:  # without fp16 there is none
        torch.amp.GradScaler("cpu").load_state_dict({**state, "_growth_tracker": int(state["_growth_tracker"])})


class _Part(BaseModel):
    """Of a state; a later version may have written more into it."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class _Means(_Part):
    sums: dict[str, Figure]
    counts: dict[str, Number] = {}
    samples: Number
    wait_s: Figure
    elapsed_s: Figure


class _Journal(_Part):
    epoch: _Means
    interval: _Means


class _Optimizer(_Part):
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class _TrainingState(_Part):
    """What ``Trainer.state`` makes; what has a default is not in states of earlier versions."""

    epoch: Number
    step: Number = 0
    schedule_step: Number = 0
    samples: Number = 0
    skipped: Number = 0
    rest: Annotated[list[Number], Field(min_length=3, max_length=3)] | None = None
    journal: _Journal | None = None
    elapsed_s: Annotated[Figure, Field(ge=0)]
    world_size: FromOne
    config: Annotated[str, AfterValidator(_settings)]
    speakers: list[str]
    made_from: dict[str, str | int] = {}
    validation: str = ""
    model: dict[str, torch.Tensor]
    optimizer: _Optimizer
    scaler: Annotated[dict[str, Figure], _loaded(_load_scaler, "the state of a scaler of the loss, or none")]
    rng: Annotated[
        torch.Tensor, _loaded(lambda state: torch.Generator().set_state(state), "the state of PyTorch's generator")
    ]


def refuse_other_types(state: Any, source: Path, remedy: str) -> None:
    """Refuse what is no state of a training, or holds something of another kind than a training has written there.

    Args:
        state: what was read.
        source: where, and ...
        remedy: what may be done, for the message.

    Raises:
        RecipeError: so it is; the first few entries are named, or tensors that are not finite.
    """
    try:
        _TrainingState.model_validate(state)
    except ValidationError as error:
        details = error.errors()
        missing = [
            str(detail["loc"][0]) for detail in details if detail["type"] == "missing" and len(detail["loc"]) == 1
        ]
        if not isinstance(state, dict) or missing:
            raise RecipeError(
                f"{source}: found no {', '.join(missing) or 'names'} in it, expected the state of a training, which a "
                f"file of weights alone (model_<epoch>.pt) is not; {remedy}"
            ) from None
        lines = [
            f"{'.'.join(map(str, detail['loc']))}: found {_found(detail)}, expected {_expected(detail)}"
            for detail in details[:3]
        ]
        raise RecipeError(f"{source}: no state that a training wrote: {'; '.join(lines)}; {remedy}") from None
    refuse_not_finite({name: state[name] for name in ("model", "optimizer")}, source, remedy)
    position, length, steps = state.get("rest") or (0, 0, 1)
    if position > length or steps < 1:
        raise RecipeError(
            f"{source}: rest: found {shown(state['rest'])}, expected what is left of an epoch: samples that are done, "
            f"all samples, and steps; {remedy}"
        )


def _found(detail: Any) -> str:
    value = detail["input"]
    if isinstance(value, torch.Tensor):
        return f"a tensor of {_kind(value)}"
    return f"{shown(value)} ({type(value).__name__})"


def _expected(detail: Any) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "is_instance_of":
        return "a tensor"
    return EXPECTED.get(detail["type"], detail["msg"].removeprefix("Input should be "))


def refuse_unfit(
    state: Mapping[str, Any], model: EncoderWithHead, optimizer: torch.optim.Optimizer, source: Path, remedy: str
) -> None:
    """Refuse a state whose tensors are not those of a network and an optimiser.

    Args:
        state: that :func:`refuse_other_types` has let through.
        model: the network with its head, which may be on PyTorch's ``meta`` device and hold some of the classes only.
        optimizer: of its parameters.
        source: where the state was read, and ...
        remedy: what may be done, for the message.

    Raises:
        RecipeError: names, shapes or types of tensors differ, or the optimiser has other parameters and settings.
    """
    own = {f"model.{name}": _kind(value) for name, value in model.checkpoint_state().items()}
    rows = model.projection.weight  # of some classes, where they are divided over processes
    own[f"model.{PROTOTYPES}"] = _kind(
        rows.new_empty(model.projection.partition.num_classes, *rows.shape[1:], device="meta")
    )
    found = {f"model.{name}": _kind(value) for name, value in state["model"].items()}
    parameters = [f"model.{name.removeprefix('encoder.')}" for name, _ in model.named_parameters()]
    for index, values in state["optimizer"]["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.dim():
                key = f"optimizer.state.{index}.{name}"
                found[key] = _kind(value)
                own[key] = own[parameters[index]] if 0 <= index < len(parameters) else _ABSENT
    groups, own_groups = _settings_of(state["optimizer"]), _settings_of(optimizer.state_dict())
    for name in groups | own_groups:
        # Of settings, those that are numbers here and there; another version of PyTorch may have others.
        if name.endswith(_PARAMETERS) or (own_groups.get(name) == "number" and name in groups):
            own[name], found[name] = own_groups.get(name, _ABSENT), groups.get(name, _ABSENT)
    other = [name for name in own | found if own.get(name) != found.get(name)]
    if other:
        first = ", ".join(
            f"{name} ({found.get(name, _ABSENT)}, expected {own.get(name, _ABSENT)})" for name in other[:3]
        )
        raise RecipeError(
            f"{source}: {counted(len(other), 'entry does', 'entries do')} not fit the network and its optimiser: "
            f"{first}; {remedy}"
        )


def refuse_unfit_for_itself(state: Mapping[str, Any], source: Path, remedy: str) -> None:
    """As :func:`refuse_unfit`, for the network and the optimiser that the state's own configuration says.

    Raises:
        RecipeError: they differ, or the configuration is none of this version.
    """
    config = config_of(parse_yaml(state["config"], str(source)), source)
    with torch.device("meta"):
        encoder = build_encoder(dataclasses.replace(config, model_init=None))
        head = build_head(config, ClassPartition(num_classes(config, state["speakers"])))
        model = EncoderWithHead(encoder, head, None)
        optimizer = build_optimizer(config, list(model.parameters()))
    refuse_unfit(state, model, optimizer, source, remedy)


def _settings_of(optimizer: Mapping[str, Any]) -> dict[str, str]:
    """Name -> kind of the settings of an optimiser's groups, and of which parameters they are."""
    kinds = {}
    for number, group in enumerate(optimizer["param_groups"]):
        for name, value in group.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            kind = "number" if is_number else f"a {type(value).__name__}"
            kinds[f"optimizer.param_groups.{number}.{name}"] = shown(value) if f".{name}" == _PARAMETERS else kind
    return kinds


def _kind(value: torch.Tensor) -> str:
    return f"{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
