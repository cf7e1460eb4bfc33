from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


class Maker:
    """Writes small picture files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def picture(self, name: str, size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
        """A random picture; `size` is (width, height)."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    def tree(
        self, folder: str, classes: list[str], count: int = 4, size: tuple[int, int] = (8, 8)
    ) -> None:
        """Class folders with `count` different pictures each."""
        for number, name in enumerate(classes):
            for image in range(count):
                self.picture(
                    str(Path(folder, name, f"{image}.png")), size, seed=100 * number + image
                )


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "data")
