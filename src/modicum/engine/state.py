"""What the checkpoints of a run hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from modicum.errors import ConfigError

_MOST_NAMED = 20


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two descriptions of data, see `Run.register_data`, in words."""
    said: list[str] = []
    for name in [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            if name == "digest":
                said.append(f"changed: {_listed(changed)}")
                continue
            old, new = ([f"{key} {each.get(key, 0)}" for key in changed] for each in (old, new))
        if name != "digest":
            said.append(f"{name}: {_listed(old)} then, {_listed(new)} now")
    return "; ".join(said) or "as many samples, but other ones"


def _listed(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    more = f" and {len(value) - _MOST_NAMED} more" if len(value) > _MOST_NAMED else ""
    return ", ".join(map(str, value[:_MOST_NAMED])) + more


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
