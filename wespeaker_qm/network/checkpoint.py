"""Model files that WeSpeaker reads, and the second file that resuming needs.

``models/model_<epoch>.pt`` is a plain state_dict with WeSpeaker's names. ``resume/step_<updates>.pt`` holds everything
else too (:mod:`wespeaker_qm.train.states`). Both are whole or absent, with a checksum; loading is always
``weights_only``.
"""

import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from wespeaker_qm.network.foreign import is_safetensors, kind_of
from wespeaker_qm.utils.checksums import checked_path, verify
from wespeaker_qm.utils.errors import RecipeError, counted, found_at, shown
from wespeaker_qm.utils.files import is_zip
from wespeaker_qm.utils.remedies import mended

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

HEAD = "projection."
"""What the names of the head's entries begin with; all others are the speaker network's."""

TRAINING_STATE = ("epoch", "elapsed_s", "world_size", "config", "speakers", "model", "optimizer", "scaler", "rng")
"""What every version has written into the state of a training."""

_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning's modules put before the names of all that they wrap."""
_COUNTER = ".num_batches_tracked"
"""Of a batch norm: PyTorch before 0.4.1 had none, and the networks make no use of it."""


def save(value: Any, path: Path) -> None:
    """Write tensors and plain Python values atomically, and their checksum; the same values make the same bytes."""
    # Given a name, PyTorch would write it into the file, and that of a temporary file is another each time.
    with checked_path(path) as temporary, temporary.open("wb") as handle:
        torch.save(value, handle)


def load(path: Path, *, is_given: bool = False, mapped: bool = False) -> Any:
    """Read what :func:`save` or WeSpeaker wrote, or a safetensors file, to the CPU, without running any code in it.

    Args:
        path: the file.
        is_given: somebody named it (``model_init``), so that no stage makes it again.
        mapped: leave the tensors in the file until they are used, so that processes of one machine share its pages.

    Raises:
        RecipeError: no such file, damaged, or not a checkpoint of tensors; the message says what it is instead.
    """
    if path.is_dir():
        raise RecipeError(f"{path}: a folder; name the file of weights in it, such as models/avg_model.pt")
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; {_NAME if is_given else 'train first (run.sh --stage 3)'}")
    remedy = _NAME if is_given else mended(path)
    is_known = bool(verify(path, remedy))
    if not is_known and (kind := kind_of(path)) is not None:
        raise RecipeError(
            f"{path}: found {kind.what}, expected weights that torch.save or safetensors wrote; {kind.use}"
        )
    try:
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        if not is_known:
            _check_zip(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        _refuse_repeated(value)
        return value
    except UnicodeEncodeError:  # of the name, which says nothing of the file
        raise
    except Exception as error:
        found, why = _OBJECT.search(str(error)), _UNPICKLER.search(str(error))
        reason = f"it holds an object of {found[1]}" if found else why[1] if why else str(error).partition("\n")[0]
        raise RecipeError(f"{path}: not a checkpoint of plain tensors, or damaged ({reason}); {remedy}") from error


_NAME = "name a file of weights: models/avg_model.pt of a run, or what torch.save(model.state_dict(), FILE) writes"
_OBJECT = re.compile(r"Unsupported (?:global|class|operand)[^\n]*?GLOBAL (\S+)")
_UNPICKLER = re.compile(r"WeightsUnpickler error: ([^\n]*)")
"""How PyTorch says what is more than tensors, or damaged, amid advice for those who trust a file."""
_NESTED = ("state_dict", "model", "model_state_dict")
"""Where programs put the weights among other things; WeSpeaker's look into the first two."""


def _check_zip(path: Path) -> None:
    """Compare the entries of a checkpoint with their CRCs, which torch.load skips; older formats have none.

    Raises:
        zipfile.BadZipFile: they differ, or are compressed.
    """
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile("compressed, which torch.save does not: a small file could fill the memory")
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the CRC of {damaged} does not match")


def _refuse_repeated(value: Any) -> None:
    """Refuse tensors of more values than the file holds, the same ones again and again, which would fill the memory.

    Raises:
        ValueError: there is one.
    """
    for name, each in _tensors(value if isinstance(value, Mapping) else {"": value}):
        if each.layout == torch.strided and not each.is_meta:
            num_bytes = each.numel() * each.element_size()
            if num_bytes > each.untyped_storage().nbytes():
                raise ValueError(f"{name} has {each.numel():,} values, of which the file holds but some")


def _state_dict(value: Any, source: Path) -> State:
    """The value, which is a state_dict.

    Raises:
        RecipeError: it is anything but tensors by name.
    """
    found = None
    if isinstance(value, dict) and set(TRAINING_STATE) <= value.keys():
        found = "the state of a training (as in resume/)"
    elif not isinstance(value, dict):
        found = f"a {type(value).__name__}"
    elif not value:
        found = "an empty dict"
    else:
        for name, each in value.items():
            if not isinstance(name, str) or not isinstance(each, torch.Tensor):
                found = f"a dict whose entry {shown(name)} is a {type(each).__name__}"
                break
    if found is not None:
        raise RecipeError(
            f"{source}: found {found}, expected a state_dict of tensors by name; name a file that holds the weights "
            "alone, such as models/model_<epoch>.pt or models/avg_model.pt"
        )
    state: State = value
    return state


_NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Types of a checkpoint's entries. PyTorch has others (quantised, 8 bits with a point, complex), without all sums."""
_EARLIER = "take those of an earlier epoch (models/model_<epoch>.pt), or put back a sound copy"


def refuse_not_finite(state: Mapping[Any, Any], source: Path | str, remedy: str = _EARLIER) -> None:
    """Refuse NaN and infinity, which would pass through the network into every loss and embedding.

    Args:
        state: tensors by name, maybe in dictionaries in it; what is no tensor is passed over.
        source: what they are of, for the message.
        remedy: what may be done.

    Raises:
        RecipeError: the first entry that has some, or holds no plain numbers.
    """
    for name, value in _tensors(state):
        _refuse_other_numbers(name, value, source, remedy)
        num_bad = int((~value.isfinite()).sum())
        if num_bad:
            raise RecipeError(
                f"{source}: {num_bad} of the {value.numel()} values of {name} are NaN or infinite, expected finite "
                f"weights; {remedy}"
            )


def _refuse_other_numbers(name: str, value: torch.Tensor, source: Path | str, remedy: str = _EARLIER) -> None:
    is_sparse = value.layout != torch.strided
    if value.is_meta or is_sparse or value.dtype not in _NUMBERS:
        kind = "without values (meta)" if value.is_meta else "sparse" if is_sparse else f"of {value.dtype}"
        raise RecipeError(f"{source}: {name} is {kind}, expected dense real numbers; {remedy}")


def _tensors(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _without_companions(value: Any) -> Any:
    """The weights out of a dictionary that holds other things beside them."""
    if isinstance(value, dict):
        for name in _NESTED:
            if isinstance(value.get(name), dict):
                return value[name]
    return value


def _plain_names(state: State) -> State:
    """The entries without what a wrapper put before the names of all."""
    for wrapper in _WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            return _plain_names({name.removeprefix(wrapper): value for name, value in state.items()})
    return state


def load_encoder(encoder: torch.nn.Module, state: Any, source: Path) -> None:
    """Load the speaker network's entries; the head's (``projection.*``) are passed over.

    Args:
        encoder: the network.
        state: what :func:`load` read: a state_dict, whose names may all begin with what wrappers put there
            (``module.``), or the state of a training (``resume/step_*.pt``), or another dictionary with the weights
            among other things, which are taken. Counters of batches may be missing.
        source: where it was read, for messages.

    Raises:
        RecipeError: it is no state_dict; names or shapes differ, of which the first few are named; a weight is not
            finite.
    """
    if isinstance(state, dict) and set(TRAINING_STATE) <= state.keys():
        logger.info("%s: the state of a training; its weights after epoch %s are taken", source, state["epoch"])
        state = state["model"]
    state = _plain_names(_state_dict(_without_companions(state), source))
    own = encoder.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith(_COUNTER)}
    state = counters | {name: value for name, value in state.items() if not name.startswith(HEAD)}
    refuse_other_shapes(own, state, source)
    for name, value in state.items():
        _refuse_other_numbers(name, value, source)
    state = {name: value.to(own[name].dtype) for name, value in state.items()}  # where a large weight may be infinite
    refuse_not_finite(state, source)
    encoder.load_state_dict(state)


def refuse_other_shapes(own: State, state: State, source: Path) -> None:
    """Refuse entries of other names and shapes than the network's own, which may be on PyTorch's ``meta`` device.

    Raises:
        RecipeError: there are some; the first few are named.
    """
    expected = {name: value.shape for name, value in own.items()}
    found = {name: value.shape for name, value in state.items()}
    if found != expected:
        names = [name for name in expected | found if found.get(name) != expected.get(name)]
        first = ", ".join(
            f"{name} ({_size(found.get(name))}, expected {_size(expected.get(name))})" for name in names[:3]
        )
        raise RecipeError(
            f"{source}: {counted(len(names), 'entry does', 'entries do')} not fit the network: {first}; check "
            "model and model_args (config.yaml)"
        )


def _size(shape: torch.Size | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"


def mean_weights(paths: list[Path]) -> State:
    """Mean of every floating-point entry over checkpoints, in float64; other entries come from the last.

    Raises:
        RecipeError: no paths, a file is missing or holds no finite state_dict, or the checkpoints have different
            entries.
    """
    if not paths:
        raise RecipeError("no checkpoints to average; train first (run.sh --stage 3)")
    total: State = {}
    last: State = {}
    for path in paths:
        last = _state_dict(load(path), path)
        refuse_not_finite(last, path)
        if not total:
            total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in last.items()}
        if {name: value.shape for name, value in last.items()} != {name: value.shape for name, value in total.items()}:
            raise RecipeError(f"{path}: entries differ from those of {paths[0]}; average checkpoints of one run only")
        for name, value in last.items():
            total[name] += value.double()
    return {
        name: (total[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for name, value in last.items()
    }
