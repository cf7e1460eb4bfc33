"""What the verb evaluate measures, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from modicum.cli import main
from modicum.errors import ConfigError
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.models.baselines import YARDSTICKS, Repeat
from modicum.methods.drum_transfer.models.drummer import Drummer
from modicum.methods.drum_transfer.options import Corpus, Sampling
from modicum.methods.drum_transfer.text.drumroll import to_prompt
from modicum.methods.drum_transfer.text.files import read_groove
from modicum.methods.drum_transfer.text.midi import write_midi
from modicum.methods.drum_transfer.text.notation import DRUMROLL, NOTATIONS
from modicum.methods.drum_transfer.train import Config
from modicum.methods.drum_transfer.verbs.evaluate import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grooves of two meters, some of which begin late, with names that look alike in files."""
    folder = tmp_path_factory.mktemp("mixed")
    for number, groove in enumerate(made_up_grooves(range(9), bars=12)):
        name = ("test/a b", "test/a_b")[number] if number < 2 else f"train/{number}"
        (folder / name).parent.mkdir(exist_ok=True)
        late = "------\n" * 64 * (number % 2) + groove.text
        meter = (3, 4) if number % 3 == 0 else (4, 4)
        groove = type(groove)(groove.name, late, 97.0, meter)
        write_midi(groove, folder / f"{name}.mid")
    (folder / "val").mkdir()
    (folder / "train" / "8.mid").rename(folder / "val" / "8.mid")
    return folder


@pytest.fixture(scope="module", params=["drumroll", "rows"])
def trained(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("run") / "run"
    words = ["train", "drum-transfer", "--model", "ngram", "--data", str(folder), "--meter-bars"]
    assert main([*words, "--notation", request.param, "--out", str(out)]) == 0
    return out


def test_people_have_the_right_length_in_every_meter(trained: Path, tmp_path: Path) -> None:
    found = evaluate(trained, out=tmp_path)
    (row,) = (row for row in found["measures"] if row["measure"] == "right_length")
    assert (row["people"], row["ngram"], row["repeat"]) == (1, 1, 1)
    assert [row["model"] for row in found["loss"]] == [*YARDSTICKS, "ngram"]
    # all orders beside it, of the same counts
    assert found["loss"][-1]["nats_per_line"] == found["loss"][-2]["nats_per_line"]


def test_what_is_written_can_be_read_again(trained: Path, tmp_path: Path) -> None:
    corpus = Drummer.load(trained).config.corpus
    evaluate(trained, out=tmp_path, sampling=Sampling(samples=2))
    evaluate(trained, out=tmp_path)  # in place of it
    written = tmp_path / "written" / "people"
    assert sorted(path.name for path in written.iterdir()) == [
        *("test_a_b-2.tab", "test_a_b-2.txt", "test_a_b.tab", "test_a_b.txt")
    ]
    grooves = [read_groove(written / f"test_a_b{name}.tab", corpus) for name in ("", "-2")]
    assert [groove.meter for groove in grooves] == [(3, 4), (4, 4)]
    assert [groove.notation.beats_per_bar for groove in grooves] == [3, 4]
    assert {groove.tempo for groove in grooves} == {97.0}


def test_the_ngram_of_built_in_grooves_has_its_own_column(folder: Path, tmp_path: Path) -> None:
    found = evaluate(model="ngram", data=str(folder), out=tmp_path)
    name = "ngram of built-in grooves"
    assert found["loss"][-1]["model"] == name
    assert found["loss"][-1]["nats_per_line"] != found["loss"][-2]["nats_per_line"]
    assert {"people", "repeat", "random", "ngram", name} <= found["measures"][0].keys()


def test_the_folder_is_tried_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        evaluate(model="no such model", out=tmp_path / "file")


def test_a_drummer_knows_one_notation() -> None:
    drummer = Drummer(Repeat(), Config(corpus=Corpus(notation="rows")), "repeat")
    groove = made_up_grooves([0])[0]
    with pytest.raises(ConfigError, match="the model writes the notation 'rows'"):
        drummer.complete([to_prompt(groove)], DRUMROLL, bars=2)
    assert drummer.config.notation == NOTATIONS["rows"]
