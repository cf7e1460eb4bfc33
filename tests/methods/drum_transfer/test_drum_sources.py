from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import logging
import shutil
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.data.sources import Collection, load_grooves
from modicum.methods.drum_transfer.options import MOST_BARS, Corpus
from modicum.methods.drum_transfer.text.drumroll import to_record
from modicum.methods.drum_transfer.text.midi import write_midi

CHECKSUMS = Path(__file__).parents[2] / "golden" / "drum-transfer" / "dataset_checksums.json"
HEADER = (
    "drummer,session,id,style,bpm,beat_type,time_signature,midi_filename,audio_filename,duration,"
    "split"
)
ROWS = (
    ("session1", "beat", "4-4", "train"),
    ("session3", "beat", "4-4", "validation"),
    ("session2", "beat", "4-4", "test"),
    ("session2", "fill", "4-4", "train"),
    ("session1", "beat", "6-8", "train"),
    ("eval_session", "beat", "4-4", "test"),
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A data set of six files laid out as the Groove MIDI Dataset is."""
    root = tmp_path / "groove"
    lines = [HEADER]
    for number, (session, kind, meter, split) in enumerate(ROWS):
        file = f"drummer1/{session}/{number}_rock_100_{kind}_{meter}.mid"
        (groove,) = made_up_grooves([number])
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_midi(groove, root / file)
        lines.append(
            f"drummer1,drummer1/{session},x,rock/{number},100,{kind},{meter},{file},,1.0,{split}"
        )
    (root / "info.csv").write_text("\n".join(lines))
    return root


def names(splits) -> dict[str, list[str]]:
    return {split: [groove.name for groove in grooves] for split, grooves in splits.items()}


def zipped(folder: Path, *, prefix: str = "groove/") -> Path:
    path = folder.with_name("groove.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def test_the_whole_data_set_is_that_of_the_official_code(
    shared_data: Callable[[str], Path],
) -> None:
    data = f"groove={shared_data('groove')}"
    splits = load_grooves(data)
    for name, golden in json.loads(CHECKSUMS.read_text()).items():
        grooves = splits["val" if name == "dev" else name]
        texts = sorted((f"{groove.name}.txt", groove.text) for groove in grooves)
        assert len(texts) == golden["n_text"]
        content = "".join(f"{file}\n{text}" for file, text in texts)
        assert hashlib.sha256(content.encode()).hexdigest() == golden["sha256_text"]
        records = sorted(
            (record.name, record.prompt, record.completion)
            for record in map(to_record, grooves)
            if record is not None
        )
        assert len(records) == golden["n_jsonl"]
        content = "".join(json.dumps(list(record)) + "\n" for record in records)
        assert hashlib.sha256(content.encode()).hexdigest() == golden["sha256_jsonl"]


def test_the_codec_reads_the_data_set_in_less_than_a_second(
    shared_data: Callable[[str], Path],
) -> None:
    data = f"groove={shared_data('groove')}"
    seconds: list[float] = []
    for _ in range(2):
        began = time.process_time()
        assert sum(to_record(g) is not None for s in load_grooves(data).values() for g in s) == 456
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1


def test_windows_use_what_the_official_code_throws_away(shared_data: Callable[[str], Path]) -> None:
    data = f"groove={shared_data('groove')}"
    whole = load_grooves(data, Corpus(bars=MOST_BARS, pad=False, eval_session=True, fills=True))
    cut = load_grooves(data, Corpus(cut=True, eval_session=True, fills=True))
    assert sum(map(len, whole.values())) == 1150 - 6
    for split, grooves in whole.items():
        # Windows of the beginning of a performance have its name; all hits are in one of them.
        assert {g.name.partition("@")[0] for g in cut[split]} == {g.name for g in grooves}
        assert sum(g.text.count("o") for g in cut[split]) == sum(g.text.count("o") for g in grooves)
    first = load_grooves(data)
    assert sum(g.text.count("o") for s in cut.values() for g in s) > 3 * sum(
        g.text.count("o") for s in first.values() for g in s
    )


@pytest.mark.parametrize("place", ["folder", "parent", "zip", "zip without a folder"])
def test_the_selection_is_that_of_the_paper(small: Path, place: str) -> None:
    path = small
    if place == "parent":
        path = small.parent
    elif place.startswith("zip"):
        path = zipped(small, prefix="" if "without" in place else "groove/")
    found = load_grooves(f"groove={path}")
    assert names(found) == {
        "train": ["1_0_rock_100_beat_4-4"],
        "val": ["1_1_rock_100_beat_4-4"],
        "test": ["1_2_rock_100_beat_4-4"],
    }
    for number, grooves in enumerate(found.values()):
        assert grooves[0].text == made_up_grooves([number])[0].text
    assert found.styles["1_1_rock_100_beat_4-4"] == "rock/1"
    assert {why: len(files) for why, files in found.dropped.items()} == {
        "fill": 1,
        "meter not in quarters": 1,
        "evaluation session": 1,
    }
    more = load_grooves(f"groove={path}", Corpus(eval_session=True, fills=True))
    assert {split: len(grooves) for split, grooves in more.items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
    }


def test_damaged_data_sets_are_refused(small: Path, tmp_path: Path) -> None:
    table = (small / "info.csv").read_text()
    for old, new, message in (
        ("beat_type,time_signature", "kind,meter", "lacks the columns beat_type, time_signature"),
        ("drummer1/session1/0_", "../0_", r"line 2: the file \.\./0_.*lies outside of the data"),
        ("validation", "dev", "line 3: found the split 'dev'; expected one of train, validation"),
        (",6-8,", ",", "line 6: expected 11 fields, as in the header"),
        ("drummer1/session2/2_", "drummer1/session2/3_", "1 of 3 files .* absent: drummer1/ses"),
    ):
        (small / "info.csv").write_text(table.replace(old, new))
        with pytest.raises(DataError, match=message):
            load_grooves(f"groove={small}")
    (small / "info.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"info\.csv is no table"):
        load_grooves(f"groove={small}")
    (small / "info.csv").write_text("\n".join(table.splitlines()[:1] + table.splitlines()[4:]))
    with pytest.raises(
        DataError,
        match=r"none of its 3 files is left\. Left out: fill: 1; meter not in quarters: 1; eval",
    ):
        load_grooves(f"groove={small}")
    (small / "info.csv").unlink()
    with pytest.raises(DataError, match=r"no info\.csv in it\. Download groove-v1\.0\.0-midi"):
        load_grooves(f"groove={small}")
    with pytest.raises(DataError, match=r"no info\.csv in the archive"):
        load_grooves(f"groove={zipped(small)}")
    with pytest.raises(DataError, match=r"no such file or folder\. Download"):
        load_grooves(f"groove={tmp_path / 'absent'}")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(zipped(small).read_bytes()[:200])
    with pytest.raises(DataError, match=r"broken\.zip: no usable zip archive"):
        load_grooves(f"groove={broken}")


def own(folder: Path, *files: str) -> Path:
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_midi(made_up_grooves([number])[0], folder / file)
    return folder


def test_own_files_are_divided_by_a_hash_of_their_names(tmp_path: Path) -> None:
    folder = own(tmp_path, *(f"a/b{number}.mid" for number in range(20)), "C.MIDI")
    splits = names(load_grooves(str(folder)))
    assert {split: len(of_it) for split, of_it in splits.items()} == {
        "train": 17,
        "val": 2,
        "test": 2,
    }
    assert sorted(name for of_it in splits.values() for name in of_it) == sorted(
        ["C", *(f"a/b{n}" for n in range(20))]
    )
    assert names(load_grooves(str(folder))) == splits
    assert names(load_grooves(str(folder), seed=1)) != splits
    # Without some files, few of the others change their split.
    for number in range(3):
        (folder / f"a/b{number}.mid").unlink()
    fewer = names(load_grooves(str(folder)))
    assert len(set(fewer["train"]) & set(splits["train"])) >= 12
    two = own(tmp_path / "two", "a.mid", "b.mid")
    assert names(load_grooves(str(two))) == {"train": ["a", "b"], "val": [], "test": []}


def test_own_folders_of_splits_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = own(tmp_path, "train/x/a.mid", "val/b.mid", "test/c.mid", "d.mid", "more/e.mid")
    with caplog.at_level(logging.WARNING):
        assert names(load_grooves(str(folder))) == {
            "train": ["train/x/a"],
            "val": ["val/b"],
            "test": ["test/c"],
        }
    (warning,) = caplog.messages
    assert "left out 2 of 5 files: d.mid: it is in none of the folders train" in warning


def test_unusable_files_of_ones_own_are_told_once_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = own(tmp_path, *(f"{number}.mid" for number in range(4)), "2.midi")
    (folder / "bad.mid").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no music")
    with caplog.at_level(logging.WARNING):
        found = load_grooves(str(folder))
    (warning,) = caplog.messages
    assert "left out 2 of 6 files: " in warning
    assert "2.midi: 2.mid gives a groove of the same name" in warning
    assert "bad.mid: no MIDI file" in warning
    assert sum(map(len, found.values())) == 4
    assert found.files == 6
    with pytest.raises(DataError, match=r"2\.midi: 2\.mid gives"):
        load_grooves(str(folder), Corpus(strict=True))
    for file in folder.glob("*.mid*"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of its 6 files is left. Left out: unusable file: 6"):
        load_grooves(str(folder))
    for file in folder.glob("*.mid*"):
        file.unlink()
    with pytest.raises(DataError, match=r"no file in it ends in \.mid or \.midi"):
        load_grooves(str(folder))


def test_unknown_pitches_of_many_files_are_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = own(tmp_path, "a.mid", "b.mid")
    for file in ("a.mid", "b.mid"):
        data = bytearray((folder / file).read_bytes())
        place = data.index(bytes([0x99, 36]))  # a kick drum becomes a maraca
        data[place + 1] = 70
        (folder / file).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        load_grooves(str(folder))
    (warning,) = caplog.messages
    assert "2 hits of unknown drum pitches left out: 70 (2)" in warning


def test_made_up_grooves_need_no_files() -> None:
    splits = load_grooves("generated", sizes=(5, 2, 1), seed=3)
    assert isinstance(splits, Collection)
    assert list(splits) == ["train", "val", "test"]
    assert len(splits) == 3
    assert [len(grooves) for grooves in splits.values()] == [5, 2, 1]
    assert splits["val"] == made_up_grooves([5, 6], seed=3)
    short = load_grooves("generated", Corpus(bars=9), sizes=(1, 1, 1))
    assert short["train"][0].text.count("\n") == 9 * 16


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("nowhere", {}, "no such folder; expected generated, a folder of MIDI files, or groove="),
        ("generated", {"notation": "loudness"}, "in the notation drumroll alone"),
        ("generated", {"sizes": (0, 1, 1)}, "at least 1 groove"),
        (".", {"fills": True}, "are of the Groove MIDI Dataset"),
        ("generated", {"fills": True}, "are of the Groove MIDI Dataset"),
        (".", {"bars": 0}, "--bars 0: must be at least 1 and at most 10000"),
    ],
)
def test_options_without_sense_are_refused(data: str, options, message: str) -> None:
    sizes = options.pop("sizes", (1, 1, 1))
    with pytest.raises(ConfigError, match=message):
        load_grooves(data, Corpus(**options), sizes=sizes)


def test_the_zip_is_read_in_memory_whatever_its_names_are(small: Path, tmp_path: Path) -> None:
    path = zipped(small)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.mid", b"x")
    shutil.rmtree(small)
    before = set(tmp_path.rglob("*"))
    assert len(load_grooves(f"groove={path}")["train"]) == 1
    assert set(tmp_path.rglob("*")) == before


def test_archives_are_unpacked_within_bounds(small: Path, tmp_path: Path) -> None:
    """Whatever sizes their entries give."""
    with (small / "info.csv").open() as file:
        member = next(csv.DictReader(file))["midi_filename"]
    (small / member).write_bytes(bytes(1 << 28))
    archive = zipped(small)
    tracemalloc.start()
    with pytest.raises(DataError, match="has more than 4,194,304 bytes"):
        load_grooves(f"groove={archive}")
    content = bytearray(archive.read_bytes())
    for header, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = content.find(header)
        while place >= 0:
            if content[place + at : place + at + 4] == (1 << 28).to_bytes(4, "little"):
                content[place + at : place + at + 4] = (100).to_bytes(4, "little")
            place = content.find(header, place + 1)
    archive.write_bytes(content)
    with pytest.raises(DataError):
        load_grooves(f"groove={archive}")
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_other_kinds_are_refused(small: Path, tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.write(small / "info.csv", "info.csv")
    with pytest.raises(DataError, match=r"info\.csv is compressed in an unusual way"):
        load_grooves(f"groove={tmp_path / 'a.zip'}")


def test_damaged_archives_are_told_of(small: Path, tmp_path: Path) -> None:
    content = zipped(small).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(300):
        damaged = bytearray(content)
        for place in rng.integers(len(content) * (number % 2) // 2, len(content), 6):
            damaged[place] = rng.integers(256)
        (tmp_path / "a.zip").write_bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged))]
                                         if number % 5 == 0 else damaged)  # fmt: skip
        with contextlib.suppress(DataError):
            load_grooves(f"groove={tmp_path / 'a.zip'}")


def test_a_pitch_is_mapped_once() -> None:
    with pytest.raises(ConfigError, match="--pitch-map: the pitch 36 is given twice"):
        Corpus(pitch_map=((36, "snare"), (36, "kick")))
