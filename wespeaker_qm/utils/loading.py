"""What loader processes hand over: an item, or an error that says what it said where it was raised."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import Dataset

from wespeaker_qm.utils.errors import RecipeError


class Handing(Dataset[Any]):
    """A dataset that gives a :class:`RecipeError` in the place of the item that cannot be had.

    Raised in a loader process, its message would come with the traceback of that process in front, as one text.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # of those that have a length

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except RecipeError as error:
            return error


def handed(items: Iterable[Any]) -> Iterator[Any]:
    """What a loader of a :class:`Handing` dataset yields.

    Raises:
        RecipeError: one cannot be had.
    """
    for item in items:
        if isinstance(item, RecipeError):
            raise item
        yield item


def unchanged(item: Any) -> Any:
    """In the place of a loader's default, which looks through an item for arrays to make tensors of."""
    return item
