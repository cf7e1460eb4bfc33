"""The handwritten digits that scikit-learn brings: data that is there wherever modicum is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt


def read_digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The 1,797 digits: pixels from 0 to 16, `(1797, 64)`, and the digit of each, `(1797,)`.

    They are read from scikit-learn's file, since importing scikit-learn takes as long as importing
    PyTorch.
    """
    found = find_spec("sklearn")
    assert found is not None  # modicum requires it
    assert found.submodule_search_locations is not None
    file = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.float64), table[:, -1]
