"""Batches: tensors in any nesting of dataclasses, named tuples, tuples, lists and dicts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch with its tensors changed; what is neither tensor nor nesting stays as it is."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: map_tensors(value, change) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        changed = [map_tensors(value, change) for value in batch]
        return type(batch)(*changed) if hasattr(batch, "_fields") else type(batch)(changed)
    if dataclasses.is_dataclass(batch):
        made = copy.copy(batch)
        for field in dataclasses.fields(batch):
            # Not dataclasses.replace: what was checked when the batch was made stays right.
            value = map_tensors(getattr(batch, field.name), change)
            object.__setattr__(made, field.name, value)
        return made
    return batch
