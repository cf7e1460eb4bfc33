"""What the checkpoints of a run hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from modicum.errors import ConfigError


class RegisteredState:
    """Objects whose state a checkpoint holds, by name.

    Args:
        unwrap: From a prepared module to the module itself.
    """

    def __init__(self, unwrap: Callable[[Any], Any]) -> None:
        self._unwrap = unwrap
        self._objects: dict[str, Any] = {}

    def register(self, objects: Mapping[str, Any], saved: Mapping[str, Any] | None) -> None:
        """Add objects, and put saved states into them.

        Args:
            objects: Things with `state_dict` and `load_state_dict`, or tensors (filled in place).
            saved: What `state_dict` returned in the run that is gone on with, if there is one.

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
        return {name: self.state_of(registered) for name, registered in self._objects.items()}

    def state_of(self, registered: Any) -> Any:
        """A tensor on the CPU, or the state dict of a module, of an optimizer or the like."""
        if isinstance(registered, Tensor):
            return registered.detach().cpu()
        return self._unwrap(registered).state_dict()
