"""What the checkpoints of a run hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from modicum.errors import ConfigError


class RegisteredState:
    """Objects whose state a checkpoint holds, by name; `unwrap` undoes what `Run.prepare` did."""

    def __init__(self, unwrap: Callable[[Any], Any]) -> None:
        self._unwrap = unwrap
        self._objects: dict[str, Any] = {}

    def register(self, objects: Mapping[str, Any], saved: Mapping[str, Any] | None) -> None:
        """Add objects, see `Run.register`, and put what `state_dict` gave before into them.

        Raises:
            ConfigError: A name is not in `saved`.
        """
        self._objects.update(objects)
        if saved is None:
            return
        for name, registered in objects.items():
            if name not in saved:
                raise ConfigError(
                    f"The checkpoint holds {', '.join(saved)}, but no {name!r}. It was written by "
                    f"another version of the method; resume it with that version."
                )
            if isinstance(registered, Tensor):
                with torch.no_grad():
                    registered.copy_(saved[name])
            else:
                self._unwrap(registered).load_state_dict(saved[name])

    def state_dict(self) -> dict[str, Any]:
        """The states of all objects. Every process is asked: a state may be gathered from all."""
        return {
            name: held.detach().cpu()
            if isinstance(held, Tensor)
            else self._unwrap(held).state_dict()
            for name, held in self._objects.items()
        }
