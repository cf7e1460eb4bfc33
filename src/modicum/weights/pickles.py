"""Pickles of arrays, read by an unpickler that runs nothing from the file.

CIFAR's batches, Detectron2's weights and the records of 3D detection come as pickles. Admitted are
numbers, strings, lists, tuples, dicts and NumPy arrays, scalars and types of numbers or text, as
Python 2 or 3 and NumPy 1 or 2 write them. Memory stays within a small multiple of the file's size.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.system.files import read_bytes

_NUMBERS_AND_TEXT = "biufcSU"
"""Kinds of NumPy types that are read: neither objects nor records."""


def read_pickle(path: Path) -> Any:
    """The object in a pickle of arrays and plain containers.

    Args:
        path: The file. Strings of Python 2 are read as Latin-1; an `OrderedDict` becomes a dict.

    Raises:
        DataError: The file is missing, damaged, or asks for any other object, which is named.
    """
    content = read_bytes(path, 1 << 36)
    try:
        return _Unpickler(content).load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # the unpickler raises almost anything on damaged bytes
        raise DataError(
            f"{path}: the pickle is damaged ({type(error).__name__}: {error}). Fetch the "
            f"file again."
        ) from error


class _Type:
    """The type of an array's elements, whose byte order a pickle tells after the rest."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.dtype = np.dtype(code.decode() if isinstance(code, bytes) else code)
        if self.dtype.kind not in _NUMBERS_AND_TEXT or not self.dtype.itemsize:
            raise DataError(
                f"the pickle holds an array of {self.dtype}, expected numbers or text; it was not "
                f"read."
            )


# The unpickler written in Python keeps what a file numbers in a dict; the one written in C makes
# room for all numbers below, and nine bytes then take 4 GB.
class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportPrivateUsage]
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)  # pyright: ignore[reportPrivateUsage]

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._left = 2 * len(content)  # an array, and its bytes where they come as text
        # Functions only: of a class, a file could make objects that were never checked.
        self._admitted: Mapping[str, Callable[..., Any]] = {
            "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0, np.uint8),  # filled below
            "numpy.ndarray": lambda: None,  # its argument
            "numpy.core.multiarray.scalar": lambda kind, data=b"": self._array(data, kind, ())[()],
            "numpy.core.numeric._frombuffer": self._array,
            "numpy.dtype": lambda *code: _Type(*code),
            "_codecs.encode": self._encoded,  # bytes, in an old protocol
            "builtins.bytes": lambda: b"",
            "collections.OrderedDict": lambda: {},
        }

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        usual = asked.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        if usual not in self._admitted:
            raise DataError(
                f"the pickle asks for {asked}, which data has no use for and which could run code; "
                f"it was not read. Get the file from its authors."
            )
        return self._admitted[usual]

    def load_build(self) -> None:
        """Give the object before it its state; by default, this could set anything's attributes."""
        state, built = self.stack.pop(), self.stack[-1]
        if type(built) is np.ndarray:
            version, shape, kind, column_major, content = state
            data = self._checked(content, kind, shape)
            built.__setstate__((version, shape, kind.dtype, column_major, data))
        elif isinstance(built, _Type):
            if state[1] in (">", b">"):
                built.dtype = built.dtype.newbyteorder(">")
        else:
            raise DataError(
                f"the pickle sets attributes of a {type(built).__name__}; it was not read."
            )

    dispatch[pickle.BUILD[0]] = load_build
    # A mutable copy is made before it is seen that the file is shorter; bytes are not.
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]

    def _array(
        self, content: str | bytes, kind: _Type, shape: tuple[int, ...], order: Any = "C"
    ) -> npt.NDArray[Any]:
        data = self._checked(content, kind, shape)
        return np.frombuffer(data, kind.dtype).reshape(shape, order=order).copy(order)

    def _checked(self, content: str | bytes, kind: _Type, shape: tuple[int, ...]) -> bytes:
        """The bytes of an array, as many as it needs."""
        data = self._encoded(content) if isinstance(content, str) else content
        if min(shape, default=0) < 0 or math.prod(shape) * kind.dtype.itemsize != len(data):
            raise DataError(
                f"the pickle's array of shape {shape} and type {kind.dtype} holds {len(data)} "
                f"bytes. It is damaged."
            )
        self._take(len(data))
        return data

    def _encoded(self, text: str, *_: str) -> bytes:
        self._take(len(text))
        return text.encode("latin1")

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DataError("the pickle's arrays are larger than the file; it was not read.")
