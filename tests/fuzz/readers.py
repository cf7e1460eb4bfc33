"""Readers of other people's files, each with whole files to damage. See `test_fuzz.py`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from modicum.events import Events, read, write
from modicum.images.decode import decode_image, decode_label_map
from modicum.methods.drum_transfer import read_midi, write_midi
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.text.files import read_groove
from modicum.methods.drum_transfer.text.tablature import to_tablature
from modicum.methods.reliant.data.delimited import read_edges, read_rows
from modicum.weights.foreign import read_state
from modicum.weights.pickles import read_pickle
from modicum.weights.saved import read_model, save_model

SHARED = Path(__file__).parents[3] / "shared"


class Reader(NamedTuple):
    """How files of a kind are made and read."""

    make: Callable[[Path], None]
    """Writes whole files to a folder."""
    read: Callable[[Path], object]
    real: tuple[str, ...] = ()
    """Patterns of real files in ../shared, where they are."""

    def files(self, folder: Path) -> list[Path]:
        """Whole files, made in a folder or real."""
        self.make(folder)
        real = [path for pattern in self.real for path in sorted(SHARED.glob(pattern))[:40]]
        return [*sorted(path for path in folder.rglob("*") if path.is_file()), *real]


def _midi(folder: Path) -> None:
    for groove in made_up_grooves(range(4)):
        write_midi(groove, folder / f"{groove.name}.mid")


def _tablatures(folder: Path) -> None:
    for groove in made_up_grooves(range(4)):
        (folder / f"{groove.name}.tab").write_text(to_tablature(groove))
        (folder / f"{groove.name}.txt").write_text(groove.text)


def _images(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
    for suffix, mode in (("png", "RGBA"), ("png", "P"), ("jpg", "RGB"), ("bmp", "RGB"),
                         ("gif", "P"), ("webp", "RGB"), ("tif", "RGB"), ("ppm", "RGB")):  # fmt: skip
        Image.fromarray(noise).convert(mode).save(folder / f"{mode}.{suffix}")


def _label_maps(folder: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (24, 20), np.uint8)
    Image.fromarray(labels).save(folder / "grey.png")
    Image.fromarray(labels).convert("P").save(folder / "palette.png")


def _pickles(folder: Path) -> None:
    batch = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2], b"names": ["a", "b"]}
    for protocol in (0, 2, 4, 5):
        (folder / f"batch_{protocol}").write_bytes(pickle.dumps(batch, protocol))


def _weights(folder: Path) -> None:
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def _models(folder: Path) -> None:
    network = nn.Linear(3, 4)
    notes = {"classes": ["a", "b", "c", "d"]}
    save_model(folder / "a.safetensors", network, method="toy", arguments={}, notes=notes)


def _events(folder: Path) -> None:
    rng = np.random.default_rng(0)
    events = Events.of(
        np.sort(rng.integers(0, 1_000_000, 60)), rng.integers(0, 30, 60), rng.integers(0, 30, 60),
        rng.integers(0, 2, 60), height=32, width=32,
    )  # fmt: skip
    for suffix in ("npz", "npy", "bin", "dat", "h5"):
        write(folder / f"a.{suffix}", events)


def _tables(folder: Path) -> None:
    (folder / "a.csv").write_text('id,age,name\n1,20,ä\n2,,b\n3,41,"c, d"\n')
    (folder / "b.tsv").write_text("id\tage\n1\t2.5e3\n2\t-7\n")


def _edges(folder: Path) -> None:
    (folder / "a.csv").write_text("from,to\n0,1\n1,2\n")
    (folder / "b.txt").write_text("0 1\n1 2\n5 7\n")


READERS = {
    "midi": Reader(_midi, read_midi, ("data/groove/*/*/*.mid", "cases/*/*.mid")),
    "tablature": Reader(_tablatures, read_groove, ("cases/music/*.tab",)),
    "image": Reader(_images, decode_image),
    "label map": Reader(_label_maps, decode_label_map),
    "pickle": Reader(_pickles, read_pickle, ("cases/reliability/*.pkl",)),
    "weights": Reader(_weights, read_state),
    "model": Reader(_models, lambda path: read_model(path, lambda *_: nn.Linear(3, 4))),
    "events": Reader(_events, read, ("cases/events/*.*", "cases/reliability/*.h5")),
    "table": Reader(_tables, read_rows, ("cases/graphs/*.csv",)),
    "edges": Reader(_edges, lambda path: read_edges(path, 10), ("cases/graphs/*.edges.csv",)),
}
