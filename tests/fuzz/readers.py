"""Readers of other people's files, each with whole files to damage. See `test_fuzz.py`."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from modicum.engine.folder import read_run
from modicum.errors import ModicumError
from modicum.events import Events, read, write
from modicum.events.layouts import DATA_SETS
from modicum.images import folders
from modicum.images.decode import decode_image, decode_label_map
from modicum.images.published import KINDS, find_cifar, read_cifar
from modicum.method import load_method
from modicum.methods.drum_transfer import read_midi, write_midi
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.data.sources import load_grooves
from modicum.methods.drum_transfer.model_folders import find_model, read_network, read_tokenizer
from modicum.methods.drum_transfer.text.files import read_groove
from modicum.methods.drum_transfer.text.tablature import to_tablature
from modicum.methods.drum_transfer.verbs.answers import COLUMNS, KEY_COLUMNS, read_answers, read_key
from modicum.methods.reliant.checkpoints import read_cpf_teacher
from modicum.methods.reliant.data.delimited import read_edges, read_rows
from modicum.methods.reliant.data.sources import load_graph
from modicum.options import to_json
from modicum.system.arrays import read_arrays
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
    for suffix in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm"):
        Image.fromarray(noise).convert("RGB").save(folder / f"a.{suffix}")
    for mode in ("RGBA", "P"):
        Image.fromarray(noise).convert(mode).save(folder / f"{mode}.png")


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
    save_file(state, folder / "a.safetensors")
    np.savez(folder / "a.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def _models(folder: Path) -> None:
    network = nn.Linear(3, 4)
    notes = {"classes": ["a", "b", "c", "d"]}
    save_model(folder / "a.safetensors", network, method="toy", arguments={}, notes=notes)


def _events(folder: Path, suffixes: Sequence[str] = ("npz", "npy", "bin", "dat", "h5")) -> None:
    rng = np.random.default_rng(0)
    events = Events.of(
        np.sort(rng.integers(0, 1_000_000, 60)), rng.integers(0, 30, 60), rng.integers(0, 30, 60),
        rng.integers(0, 2, 60), height=32, width=32,
    )  # fmt: skip
    for suffix in suffixes:
        write(folder / f"a.{suffix}", events)


def _tables(folder: Path) -> None:
    (folder / "a.csv").write_text('id,age,name\n1,20,ä\n2,,b\n3,41,"c, d"\n')
    (folder / "b.tsv").write_text("id\tage\n1\t2.5e3\n2\t-7\n")


def _edges(folder: Path) -> None:
    (folder / "a.csv").write_text("from,to\n0,1\n1,2\n")
    (folder / "b.txt").write_text("0 1\n1 2\n5 7\n")


def _arrays(folder: Path) -> None:
    np.save(folder / "a.npy", np.arange(20).reshape(4, 5))
    np.save(folder / "fortran.npy", np.asfortranarray(np.ones((4, 5), np.float32)))
    np.save(folder / "records.npy", np.zeros(4, [("t", "<i8"), ("x", "<u2")]))
    np.savez(folder / "a.npz", a=np.arange(9), b=np.ones((2, 3), np.uint8))
    np.savez_compressed(folder / "packed.npz", a=np.arange(9), b=np.ones((2, 3), np.uint8))


def _cifar(folder: Path) -> None:
    for kind in KINDS:
        (folder / kind.folder).mkdir(exist_ok=True)
        names = [f"class{number}" for number in range(kind.classes)]
        for file in (*kind.train, kind.test[0], kind.names):
            path = folder / kind.folder / file
            if not kind.binary:
                fine = "" if kind.classes == 10 else "fine_"
                batch = {"data": np.zeros((2, 3072), np.uint8), f"{fine}labels": [0, 9]}
                content = batch if file != kind.names else {f"{fine}label_names": names}
                path.write_bytes(pickle.dumps(content, 2))
            elif file == kind.names:
                path.write_text("\n".join(names))
            else:
                path.write_bytes(bytes((3072 + 1 + (kind.classes == 100)) * 2))


def _read_cifar(folder: Path) -> None:
    for kind in KINDS:
        found = find_cifar(folder / kind.folder)
        assert found is not None
        for split in ("train", "test"):
            read_cifar(*found, split)


def _tiny_imagenet(folder: Path) -> None:
    (folder / "wnids.txt").write_text("n1\nn2\n")
    (folder / "words.txt").write_text("n1\tcat, tom\nn2\tdog\n")
    for name in ("train/n1/images/a", "train/n2/images/b", "val/images/c", "val/images/d"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / f"{name}.JPEG")
    (folder / "val/val_annotations.txt").write_text("c.JPEG\tn1\t0\t0\nd.JPEG\tn2\t0\t0\n")


def _read_tiny_imagenet(folder: Path) -> None:
    tree = folders.recognise(folder)
    for split in tree.splits:
        folders.list_files(tree, split)


def _listed_events(folder: Path) -> None:
    (folder / "labels.tsv").write_text("1\t3\n2\t4\n")
    (folder / "trials_to_train.txt").write_text("user01_led.aedat\nuser02_lab.aedat\n")
    (folder / "trials_to_test.txt").write_text("user03_led.aedat\n")
    for name in ("user01_led", "user02_lab", "user03_led"):
        (folder / f"{name}.aedat").write_text("#!AER-DAT3.1\r\n")
        (folder / f"{name}_labels.csv").write_text("class,startTime_usec,endTime_usec\n1,5,90\n")
    for number in (1, 2):
        (folder / f"{number}.bin").write_bytes(bytes([1, 1, 0, 0, 9]))


def _read_listed_events(folder: Path) -> None:
    for name in ("n-mnist", "dvs-gesture"):
        with suppress(ModicumError):
            DATA_SETS[name].find(folder, "train")


def _dblp(folder: Path) -> None:
    np.savez(folder / "X.npz", data=np.ones(6), row=np.arange(6), col=np.arange(6) % 3,
             shape=np.array([6, 3]))  # fmt: skip
    (folder / "labels.txt").write_text("".join(f"{node} {3 * (node % 2)}\n" for node in range(6)))
    (folder / "sens.txt").write_text("".join(f"{node // 3 + 1}\n" for node in range(6)))
    (folder / "edgelist.txt").write_text("0 1\n1 2\n3 4\n4 5\n")
    (folder / "split").mkdir(exist_ok=True)
    for name, nodes in {"train": [0, 1], "val": [2, 3], "test": [4, 5]}.items():
        np.save(folder / "split" / f"{name}_split.npy", np.array(nodes))


def _probabilities(folder: Path) -> None:
    (folder / "output.txt").write_text("0.2500\t0.7500\n0.9000\t0.1000\n0.5000\t0.5000\n")


def _groove_archive(folder: Path) -> None:
    rows = io.StringIO()
    table = csv.writer(rows)
    names = "drummer session id style bpm beat_type time_signature midi_filename audio_filename"
    table.writerow([*names.split(), "duration", "split"])
    with zipfile.ZipFile(folder / "groove.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, groove in enumerate(made_up_grooves(range(3))):
            name, split = f"drummer1/{number}.mid", ("train", "validation", "test")[number]
            table.writerow(["drummer1", "drummer1/session1", number, "rock", 100, "beat", "4-4",
                            name, "", 9.5, split])  # fmt: skip
            write_midi(groove, folder / "a.mid")
            archive.write(folder / "a.mid", f"groove/{name}")
        archive.writestr("groove/info.csv", rows.getvalue())
    (folder / "a.mid").unlink()


def _answers(folder: Path) -> None:
    answer = 'p,me,1A,consistent,yes,no,no,equal,"good, they said"'
    (folder / "answers.csv").write_text(f"{','.join(COLUMNS)}\n{answer}\n")
    (folder / "key.csv").write_text(f"{','.join(KEY_COLUMNS)}\np,1A,ours,groove\n")


def _run(folder: Path) -> None:
    recipe = load_method("vgnet").recipe("train")
    config, options = recipe.presets["smoke"].config, recipe.presets["smoke"].options
    described = {"method": "vgnet", "recipe": "train"}
    described |= {"config": to_json(config), "run": to_json(options)}
    (folder / "config.json").write_text(json.dumps(described))


def _config_of(method: str, recipe: str) -> type[Any]:
    return load_method(method).recipe(recipe).config


def _language_model(folder: Path) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "methods" / "drum_transfer"))
    from tiny_language_models import write_model  # imports Transformers, which takes seconds

    write_model(folder)


def _read_language_model(folder: Path) -> None:
    model = find_model(str(folder)).path
    read_tokenizer(model)
    read_network(model)


def _in_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """To read the folder a file is of: the whole one, with this file in place of its own."""

    def read_folder(path: Path) -> object:
        root = next(folder for folder in path.parents if (folder / "whole").is_dir())
        whole, folder = root / "whole", root / "folder"
        if not folder.exists():
            shutil.copytree(whole, folder)
        [own] = whole.rglob(path.name)
        place = folder / own.relative_to(whole)
        shutil.copyfile(path, place)
        try:
            return read(folder)
        finally:
            shutil.copyfile(own, place)

    return read_folder


READERS = {
    "midi": Reader(_midi, read_midi, ("data/groove/*/*/*.mid", "cases/*/*.mid")),
    "tablature": Reader(_tablatures, read_groove, ("cases/music/*.tab",)),
    "image": Reader(_images, decode_image),
    "label map": Reader(_label_maps, decode_label_map),
    "pickle": Reader(_pickles, read_pickle, ("cases/reliability/*.pkl",)),
    "weights": Reader(_weights, read_state),
    "model": Reader(_models, lambda path: read_model(path, lambda *_: nn.Linear(3, 4))),
    "events": Reader(_events, read, ("cases/events/*.*", "cases/reliability/*.h5")),
    "events npy": Reader(partial(_events, suffixes=["npy"]), read, ("cases/events/*.npy",)),
    "events npz": Reader(partial(_events, suffixes=["npz"]), read, ("cases/events/*.npz",)),
    "arrays": Reader(_arrays, read_arrays, ("cases/events/*.np?",)),
    "lists of events": Reader(_listed_events, _in_folder(_read_listed_events)),
    "cifar": Reader(_cifar, _in_folder(_read_cifar)),
    "tiny-imagenet": Reader(_tiny_imagenet, _in_folder(_read_tiny_imagenet)),
    "dblp": Reader(_dblp, _in_folder(lambda folder: load_graph(f"dblp={folder}"))),
    "probabilities": Reader(_probabilities, lambda path: read_cpf_teacher(path, 3, 2)),
    "archive of grooves": Reader(_groove_archive, lambda path: load_grooves(f"groove={path}")),
    "answers": Reader(_answers, lambda path: (read_answers, read_key)["key" in path.name](path)),
    "run": Reader(_run, lambda path: read_run(path.parent, _config_of)),
    "language model": Reader(_language_model, _in_folder(_read_language_model)),
    "table": Reader(_tables, read_rows, ("cases/graphs/*.csv",)),
    "edges": Reader(_edges, lambda path: read_edges(path, 10), ("cases/graphs/*.edges.csv",)),
}
