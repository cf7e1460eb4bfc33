"""The errors modicum raises on purpose.

Every message says what is wrong, where, what was found, what was expected and how to mend it; the
command line prints it without a traceback and exits with the error's `exit_code`.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class ModicumError(Exception):
    """Base of all errors a user can mend. The command line exits with 1."""

    exit_code = 1


class DataError(ModicumError, ValueError):
    """A file or folder the user brought cannot be used as it is."""


class ConfigError(ModicumError, ValueError):
    """An option, or a combination of options, makes no sense. The command line exits with 2."""

    exit_code = 2


class CheckpointError(ModicumError, ValueError):
    """A file of weights, or a run to resume, is damaged, foreign, or of another network."""


class MissingExtraError(ModicumError, ImportError):
    """An optional library is not installed."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional `module`, or say which extra of modicum brings it.

    Args:
        module: Import name, such as `"onnxruntime"`.
        extra: The extra of modicum that installs it, such as `"deploy"`.
        purpose: What needs it, for the message: `"ONNX export"`.

    Raises:
        MissingExtraError: The library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the library {module!r}, which is not installed ({error}). "
            f"Install it with: pip install 'modicum[{extra}]'"
        ) from error
