"""The verbs predict, evaluate and export, through the command line."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import symusic
import torch

import modicum
from modicum.cli import main
from modicum.errors import DataError
from modicum.method import load_saved
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.models import baselines
from modicum.methods.drum_transfer.models.drummer import Drummer
from modicum.methods.drum_transfer.models.server import Reply, Server
from modicum.methods.drum_transfer.options import Reading, Sampling
from modicum.methods.drum_transfer.saved_models import arguments_of
from modicum.methods.drum_transfer.text.drumroll import bars, to_hits
from modicum.methods.drum_transfer.text.files import numbered, read_groove
from modicum.methods.drum_transfer.text.midi import read_midi, write_midi
from modicum.methods.drum_transfer.text.tablature import from_tablature
from modicum.methods.drum_transfer.verbs.evaluate import (
    losses_beside_yardsticks,
    write_beside_baselines,
)
from modicum.weights.saved import save_model

SMALL = ["--width", "32", "--layers", "1", "--heads", "2", "--mlp", "32", "--dropout", "0"]


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def grooves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two grooves of a drummer, with velocities."""
    folder = tmp_path_factory.mktemp("grooves")
    for groove in made_up_grooves([7, 8], bars=4):
        write_midi(groove, folder / f"{groove.name}.mid", tempo=97.5)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    words = ["train", "drum-transfer", "--preset", "smoke", *SMALL, "--out", str(out)]
    assert main(words) == 0
    return out


@pytest.mark.parametrize("who", ["ngram", "repeat", "random", "run"])
def test_predict_writes_what_plays(
    who: str, grooves: Path, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = ["--run", trained] if who == "run" else ["--model", who]
    words = ["predict", "drum-transfer", grooves, *source, "--bars", "3", "--samples", "2"]
    found = run(capsys, *words, "--out", tmp_path)
    assert found["grooves"] == 2
    assert len(found["samples"]) == 4
    for sample in found["samples"]:
        files = {Path(file).suffix: Path(file) for file in sample["files"]}
        assert set(files) == {".mid", ".txt", ".png", ".wav"}
        assert sample["bars"] == 5
        groove = read_midi(files[".mid"], bars=5)
        given = read_midi(grooves / f"{sample['name'][:-2]}.mid", bars=4)
        assert bars(groove.text)[:2] == bars(given.text)[:2]
        assert groove.velocities is not None
        assert given.velocities is not None
        assert np.array_equal(groove.velocities[:32], given.velocities[:32])
        assert groove.tempo == pytest.approx(97.5, abs=1e-3)
        hits = int((to_hits(groove.text) > 0).sum())
        assert sum(len(track.notes) for track in symusic.Score(files[".mid"]).tracks) == hits
        tab = from_tablature(files[".txt"].read_text())
        assert tab.text == groove.text
        with wave.open(str(files[".wav"])) as sound:
            seconds = sound.getnframes() / sound.getframerate()
        assert seconds == pytest.approx(5 * 4 * 60 / 97.5 + 2, abs=0.1)
        assert files[".png"].read_bytes().startswith(b"\x89PNG")
    if who == "repeat":
        assert bars(groove.text)[1] == bars(groove.text)[4]


def test_what_is_written_is_a_function_of_the_seed(
    grooves: Path, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts: list[str] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ["predict", "drum-transfer", grooves, "--run", trained, "--bars", "2"]
        options = ["--samples", "1", "--formats", "txt", "--seed", seed, "--out", tmp_path / name]
        run(capsys, *words, *options)
        texts.append("".join(p.read_text() for p in sorted((tmp_path / name).glob("*.txt"))))
    assert texts[0] == texts[1] != texts[2]


def test_the_paper_s_way_is_repaired(
    grooves: Path, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["predict", "drum-transfer", grooves, "--run", trained, "--no-constrained"]
    options = ["--max-tokens", "120", "--samples", "1", "--formats", "mid"]
    found = run(capsys, *words, *options, "--out", tmp_path)
    for sample in found["samples"]:
        assert mido.MidiFile(sample["files"][0]).type == 0


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["evaluate", "drum-transfer", "--run", trained, "--split", "test", "--out", tmp_path]
    found = run(capsys, *words, "--samples", "1", "--styles")
    losses = {row["model"]: row["nats_per_line"] for row in found["loss"]}
    assert losses["uniform"] == pytest.approx(np.log(64))
    assert losses["line a bar before and previous line"] < losses["unigram"] < losses["uniform"]
    assert losses["scratch"] > 0
    measures = {row["measure"]: row for row in found["measures"]}
    assert measures["stability"]["repeat"] == 0
    assert measures["stability"]["random"] > measures["stability"]["people"] > 0
    assert measures["right_length"]["scratch"] == 1
    assert measures["bad_lines"]["scratch"] == 0
    assert "rock" in found["styles"]["scratch"][0]
    assert len(list((tmp_path / "written" / "scratch").glob("*.txt"))) == 37
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("form", ["jsonl-legacy", "jsonl-chat"])
def test_export_records(form: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["export", "drum-transfer", "--to", form, "--data", "generated", "--split", "test"]
    found = run(capsys, *words, "--out", tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(lines) == found["records"] == 37
    expected = {"prompt", "completion"} if form == "jsonl-legacy" else {"messages"}
    assert set(lines[0]) == expected


def test_export_refuses_what_it_does_not_use(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "drum-transfer", "--run", "nothing", "--data", "generated"]
    assert main(words) == 2
    assert "--data: --to safetensors writes a model" in capsys.readouterr().err


def test_records_are_written_as_the_run_s(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number, groove in enumerate(made_up_grooves(range(6), bars=12)):
        write_midi(groove, tmp_path / f"{number}.mid")
    words = ["train", "drum-transfer", "--model", "ngram", "--data", str(tmp_path)]
    words += ["--notation", "rows", "--bars", "12", "--prompt-bars", "3"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    words = ["export", "drum-transfer", "--to", "jsonl-legacy", "--run", tmp_path / "run"]
    run(capsys, *words, "--out", tmp_path / "a.jsonl")
    for line in (tmp_path / "a.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["prompt"].startswith("K: ")
        assert record["prompt"].count("SEP\n") == 3
        assert record["completion"].count("SEP\n") == 8


def test_export_weights(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    run(capsys, "export", "drum-transfer", "--run", trained, "--out", out)
    ids = torch.arange(12)[None] % 8
    best = modicum.load(trained / "best.safetensors")
    assert torch.equal(modicum.load(out)(ids), best(ids))
    with_transformers = ["--to", "transformers", "--out", str(tmp_path / "folder")]
    assert main(["export", "drum-transfer", "--run", str(trained), *with_transformers]) == 2
    assert "no model of Transformers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "x", "--model", "ngram"], "give --run"),
        ([], "give --run"),
        (["--model", "scratch"], "Train it"),
        (["--model", "no such model"], "no such folder"),
        (["--model", "ngram", "--server", "x"], "in place of"),
        (["--model", "ngram", "--prompt-bars", "9"], "9 bars needs"),
        (["--model", "ngram", "--bars", "0"], "--bars 0"),
        (["--model", "ngram", "--tempo", "0"], "--tempo 0: must be 10 to 1000"),
        (["--model", "ngram", "--tempo", "3", "--formats", "mid"], "--tempo 3: must be 4 to 1000"),
        (["--model", "ngram", "--max-tokens", "9"], "--max-tokens: the baseline ngram has no"),
        (["--model", "ngram", "--no-constrained"], "--no-constrained: the baseline ngram has no"),
        (["--model", "random", "--top-p", "0.5"], "--top-p: the baseline random has no such"),
        (["--model", "repeat", "--temperature", "0"], "--temperature: the baseline repeat has no"),
        (["--model", "ngram", "--chat"], "leave out --chat"),
        (["--server", "x", "--device", "cpu"], "leave out --device"),
        (["--model", "ngram", "--pitch-map", "33", "tabla"], "--pitch-map 33 tabla"),
        (["--model", "ngram", "--formats"], "--formats: choose at least one of mid, txt, png, wav"),
        (["--model", "x", "--soundfont", "nix.sf2"], "nix.sf2: no such file"),
        (["--model", "x", "--soundfont", "nix.sf2", "--formats", "mid"], "--soundfont: it is for"),
        (["--server", "x", "--model", "ngram"], "leave out --model"),
        (["--server", "x", "--weights", "last"], "leave out --weights"),
    ],
)
def test_what_cannot_be_done_is_told(
    words: list[str], message: str, grooves: Path, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert main(["predict", "drum-transfer", str(grooves), *words, "--out", str(tmp_path)]) != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told_of_first(
    grooves: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = ["predict", "drum-transfer", str(grooves), "--model", "no such model"]
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert main([*words, "--out", str(out)]) == 2
        assert f"{tmp_path}/file: is a file, where a folder" in capsys.readouterr().err
    (tmp_path / "text.sf2").write_text("no SoundFont")
    soundfont = ["--soundfont", str(tmp_path / "text.sf2")]
    assert main([*words, *soundfont, "--out", str(tmp_path / "out")]) == 1
    assert "text.sf2: symusic" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_groove_too_long_for_the_model_does_not_stop_the_others(
    grooves: Path, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_midi(made_up_grooves([1], bars=50)[0], tmp_path / "long.mid")
    words = ["predict", "drum-transfer", grooves, tmp_path / "long.mid", "--run", trained]
    words += ["--prompt-bars", "None", "--bars", 1, "--samples", 1, "--formats", "mid"]
    found = run(capsys, *words, "--out", tmp_path / "out", code=1)
    assert (found["grooves"], found["unusable"]) == (2, 1)
    said = found["samples"][-1]["error"]
    assert said.startswith(f"{tmp_path / 'long.mid'}: a prompt of 5,")
    assert "the model sees at most 4,096" in said
    assert all(option in said for option in ("--bars", "--max-tokens", "--prompt-bars"))


def test_evaluate_refuses_what_a_baseline_does_not_have(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["evaluate", "drum-transfer", "--model", "repeat", "--top-p", "0.5"]
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "--top-p: the baseline repeat has no such option" in capsys.readouterr().err


def test_an_unusable_file_does_not_stop_the_others(
    grooves: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_midi(made_up_grooves([1], bars=4)[0], tmp_path / "slow.mid", tempo=5)
    write_midi(made_up_grooves([1], bars=1)[0], tmp_path / "short.mid")
    (tmp_path / "broken.mid").write_bytes(b"MThd")
    words = ["predict", "drum-transfer", "--model", "repeat", "--samples", "1", "--bars", "1"]
    options = ["--formats", "wav", "--out", str(tmp_path / "out")]
    found = run(capsys, *words, tmp_path, grooves, *options, code=1)
    assert (found["grooves"], found["unusable"], found["usable"]) == (2, 3, False)
    assert [len(row.get("files", [])) for row in found["samples"]] == [1, 1, 0, 0, 0]
    errors = {row["name"]: row["error"] for row in found["samples"] if "error" in row}
    assert "cut off within the header" in errors["broken"]
    assert "a prompt of 2 bars needs 32" in errors["short"]
    assert "its tempo is 5; expected 10 to 1000" in errors["slow"]
    assert all(error in caplog.text for error in errors.values())
    found = run(capsys, *words, tmp_path / "slow.mid", "--tempo", 120, *options)
    assert found["samples"][0]["tempo"] == 120
    assert main([*words, str(tmp_path / "broken.mid"), str(tmp_path / "short.mid")]) == 1
    assert "none of the 2 files can be continued. The first:" in capsys.readouterr().err


def test_what_a_server_is_asked(
    grooves: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Sampling] = []

    def complete(self: Server, prompt: str, sampling: Sampling, **_: Any) -> list[Reply]:
        asked.append(sampling)
        if len(asked) == 2:
            raise DataError("no line can begin a bar")
        return [Reply("o-----\n" * 16, stopped=True)] * sampling.samples

    monkeypatch.setattr(Server, "complete", complete)
    words = ["predict", "drum-transfer", grooves, "--server", "x", "--base-url", "http://here/v1"]
    words += ["--bars", 1, "--samples", 2, "--formats", "mid", "--out", tmp_path]
    found = run(capsys, *words, code=1)
    assert [sorted(row) for row in found["samples"][2:]] == [["error", "name"]]
    assert found["grooves"] == 1
    assert asked[0] == Sampling(samples=2)
    run(capsys, *words, "--top-p", 0.5, "--seed", 3, "--no-constrained")
    assert asked[2] == Sampling(samples=2, top_p=0.5, seed=3, constrained=False)


@pytest.mark.parametrize("name", ["people", "ngram", "uniform", "what"])
def test_a_model_keeps_apart_from_what_it_is_compared_with(
    name: str, trained: Path, tmp_path: Path
) -> None:
    """Whatever its folder is called."""
    ngram = baselines.NGram.of_made_up_grooves()
    folder = tmp_path / name
    folder.mkdir()
    saved = load_saved(trained)
    notes = saved.notes | {"config": saved.notes["config"] | {"model": str(folder)}}
    arguments = arguments_of(saved.module)
    save_model(
        tmp_path / "a.safetensors", saved.module,
        method="drum-transfer", arguments=arguments, notes=notes,
    )  # fmt: skip
    drummer = Drummer.load(tmp_path / "a.safetensors", device="cpu")
    assert drummer.name == f"{name}-2"
    records = drummer.config.to_records(made_up_grooves([0]), "test")
    texts = write_beside_baselines(drummer, ngram, records)
    assert list(texts) == ["people", "repeat", "random", "ngram", drummer.name]
    rows = [row["model"] for row in losses_beside_yardsticks(drummer, ngram, records)]
    assert rows == [*baselines.YARDSTICKS, drummer.name]
    notes["config"]["model"] = "/"
    save_model(
        tmp_path / "a.safetensors", saved.module,
        method="drum-transfer", arguments=arguments, notes=notes,
    )  # fmt: skip
    assert Drummer.load(tmp_path / "a.safetensors", device="cpu").name == "model"


def test_the_ngram_is_counted_once(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit, counted = baselines.NGram.fit, []

    def counting(records: Any, **how: Any) -> Any:
        counted.append(len(records))
        return fit(records, **how)

    monkeypatch.setattr(baselines.NGram, "fit", counting)
    run(capsys, "evaluate", "drum-transfer", "--model", "repeat", "--out", tmp_path)
    assert counted == [372]


def test_records_are_exported_without_the_model(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def built(*given: Any, **named: Any) -> None:
        raise AssertionError("the model is built")

    monkeypatch.setattr("modicum.methods.drum_transfer.models.decoder.Decoder.__init__", built)
    words = ["export", "drum-transfer", "--to", "jsonl-legacy", "--out", tmp_path / "a.jsonl"]
    for path in (trained, trained / "model.safetensors"):
        assert run(capsys, *words, "--run", path, "--split", "test")["records"] == 37
    (tmp_path / "b.safetensors").write_bytes(b"x")
    assert main([*map(str, words), "--run", str(tmp_path / "b.safetensors")]) == 1
    assert "b.safetensors: cannot be read as safetensors" in capsys.readouterr().err


def test_pitches_of_ones_own(
    grooves: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Those of training, or others for these files; analysed and listened to alike."""
    for file in grooves.glob("*.mid"):
        content = bytearray(file.read_bytes())
        for place in range(len(content) - 1):
            if content[place] in (0x99, 0x89):
                content[place] -= 6  # another channel
                content[place + 1] += 40 * (content[place + 1] == 36)  # a kick becomes 76
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / file.name).write_bytes(content)
    mapped = ["--channel", 3, "--pitch-map", 76, "kick"]
    words = ["predict", "drum-transfer", "--model", "repeat", "--samples", 1, "--formats", "mid"]
    words += ["--bars", 1]
    run(capsys, *words, grooves, "--out", tmp_path / "a")
    run(capsys, *words, tmp_path / "mine", *mapped, "--out", tmp_path / "b")
    for file in (tmp_path / "a").glob("*.mid"):
        assert read_midi(file).text == read_midi(tmp_path / "b" / file.name).text
    an = ["analyse", "drum-transfer", "--no-picture", "--out", tmp_path / "an"]
    same, mine = (
        [row | {"file": ""} for row in run(capsys, *an, *files)["playing"]]
        for files in ([grooves], [tmp_path / "mine", *mapped])
    )
    assert same == mine
    assert main([*map(str, an), str(tmp_path / "mine")]) == 1
    assert "--pitch-map 33 snare 31 none" in capsys.readouterr().err
    words = ["listen", "drum-transfer", tmp_path / "mine", "--against", tmp_path / "mine", *mapped]
    words += ["--names", "one", "other", "--out", tmp_path / "page"]
    assert run(capsys, *words)["pairs"] == 2


def test_other_meters_are_warned_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_midi(made_up_grooves([1], bars=4)[0], tmp_path / "waltz.mid", meter=(3, 4))
    words = ["predict", "drum-transfer", tmp_path / "waltz.mid", "--model", "ngram"]
    found = run(capsys, *words, "--out", tmp_path, "--samples", "1", "--formats", "mid")
    assert "not in 4/4" in caplog.text
    midi = mido.MidiFile(found["samples"][0]["files"][0])
    assert [m.numerator for m in midi.tracks[0] if m.type == "time_signature"] == [3]


def test_files_of_the_same_name_keep_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for folder, number in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        write_midi(made_up_grooves([number], bars=4)[0], tmp_path / folder / "beat.mid")
    words = ["predict", "drum-transfer", tmp_path / "a", tmp_path / "b", "--model", "repeat"]
    found = run(capsys, *words, "--samples", "1", "--formats", "mid", "--out", tmp_path / "out")
    assert [sample["name"] for sample in found["samples"]] == ["beat_1", "beat-2_1"]
    assert numbered(["a", "a", "a-2", "a"]) == ["a", "a-2", "a-2-2", "a-3"]
    assert len(list((tmp_path / "out").glob("*.mid"))) == 2


def test_what_is_written_is_heard_in_the_run_s_report(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for _ in range(2):
        run(capsys, "evaluate", "drum-transfer", "--run", folder)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == page.count("data:audio/wav") == 1
    assert "The sound is that of scratch." in page


def test_evaluate_empties_no_folder_of_others(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, written = tmp_path / "out", tmp_path / "out" / "written"
    written.mkdir(parents=True)
    words = ["evaluate", "drum-transfer", "--run", trained, "--out", out]
    (written / "novel.txt").write_text("mine")
    assert "holds novel.txt" in run(capsys, *words, code=2)["message"]
    (written / "novel.txt").unlink()
    (written / "mine").mkdir()
    (written / "mine" / "novel.txt").write_text("mine")
    assert "holds novel.txt" in run(capsys, *words, code=2)["message"]
    (written / "mine" / "novel.txt").rename(tmp_path / "novel.txt")
    (written / "mine").rmdir()
    (written / "people").symlink_to(tmp_path)
    assert "holds people" in run(capsys, *words, code=2)["message"]
    (written / "people").unlink()
    run(capsys, *words)
    before = sorted(written.rglob("*"))
    (written / "people" / "of_before.txt").write_text("")
    run(capsys, *words)
    assert sorted(written.rglob("*")) == before
    assert (tmp_path / "novel.txt").read_text() == "mine"


def test_names_of_a_data_set_lead_to_no_other_folder(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    columns = "drummer,session,style,beat_type,time_signature,midi_filename,split"
    rows = [columns]
    for number, split in enumerate(("train", "train", "validation", "test")):
        write_midi(made_up_grooves([number])[0], data / f"{number}.mid")
        rows.append(f"../../../escaped/x,drummer1/session1,rock,beat,4-4,{number}.mid,{split}")
    (data / "info.csv").write_text("\n".join(rows) + "\n")
    words = ["evaluate", "drum-transfer", "--run", trained, "--data", f"groove={data}"]
    assert main([*map(str, words), "--out", str(tmp_path / "in" / "here" / "out")]) == 0
    assert not (tmp_path / "in" / "escaped").exists()
    assert not (tmp_path / "escaped").exists()
    assert len(list((tmp_path / "in").rglob("*.txt"))) == 5


def test_a_tab_is_continued_and_analysed(
    grooves: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["predict", "drum-transfer", grooves, "--model", "repeat", "--formats", "txt"]
    run(capsys, *words, "--samples", "1", "--out", tmp_path / "tabs")
    tabs = sorted((tmp_path / "tabs").glob("*.txt"))
    words = ["predict", "drum-transfer", tabs[0], "--model", "repeat", "--formats", "mid"]
    found = run(capsys, *words, "--bars", "1", "--samples", "1", "--out", tmp_path / "again")
    groove = read_midi(found["samples"][0]["files"][0])
    assert groove.tempo == pytest.approx(97.5, abs=1e-3)
    assert bars(groove.text)[:3] == bars(from_tablature(tabs[0].read_text()).text)[:3]
    found = run(capsys, "analyse", "drum-transfer", *tabs, "--out", tmp_path / "an", "--no-picture")
    assert [row["stability"] for row in found["files"]] == [0, 0]


def test_what_is_predicted_is_judged_against_people(
    grooves: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["predict", "drum-transfer", grooves, "--model", "ngram", "--samples", "2"]
    run(capsys, *words, "--formats", "mid", "txt", "--out", tmp_path / "out")
    words = ["listen", "drum-transfer", tmp_path / "out", "--against", grooves]
    found = run(capsys, *words, "--out", tmp_path / "page")
    assert found["pairs"] == 2


@pytest.mark.parametrize("notation", ["loudness", "articulated", "rows"])
def test_midi_says_what_the_text_says(
    notation: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Loud letters are played no softer than what is read as loud, and soft ones softer."""
    for groove in made_up_grooves(range(4), bars=12):
        write_midi(groove, tmp_path / "data" / f"{groove.name}.mid")
    words = ["train", "drum-transfer", "--model", "ngram", "--notation", notation]
    trained = tmp_path / "run"
    run(capsys, *words, "--data", tmp_path / "data", "--loud", "90", "--out", trained)
    words = ["predict", "drum-transfer", tmp_path / "data", "--run", trained, "--formats"]
    found = run(capsys, *words, "mid", "txt", "--out", tmp_path, "--samples", "1")
    reading = Reading(notation=notation, loud=90)
    for sample in found["samples"]:
        midi, tab = map(Path, sample["files"])
        text, heard = read_groove(tab, reading).text, read_midi(midi, reading).text
        assert {"o", "O"} <= set(heard)
        # MIDI ends with the bar of the last hit.
        assert text.startswith(heard)
        assert not {"o", "O", "x", "X"} & set(text[len(heard) :])
