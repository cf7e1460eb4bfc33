"""What a data set holds."""

from __future__ import annotations

from typing import Any

import tyro

from modicum.errors import DataError
from modicum.methods.toy.data import open_clouds

DATASETS = {
    "points": "built in: points on lines, made up from a seed",
    "your own": "a folder of at least four .npy files, each of the shape (n, 2)",
}


def data(path: tyro.conf.Positional[str]) -> dict[str, Any]:
    """Say how many clouds and points a data set holds.

    Args:
        path: What `modicum train toy teacher --data` takes.
    """
    try:
        points = open_clouds(path, "train").points + open_clouds(path, "val").points
    except DataError as error:
        return {"source": path, "usable": False, "problems": [str(error)]}
    return {"source": path, "usable": True, "clouds": len(points), "points": sum(map(len, points))}
