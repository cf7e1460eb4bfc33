"""The recipe: options, batches, windows, what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_language_models import write_model

import modicum
from kills import try_twenty
from modicum.cli import main
from modicum.engine.random import SampleRandom
from modicum.engine.run import (
    Run,
    RunOptions,
    TrainingError,
)
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.losses import completion_nats
from modicum.methods.drum_transfer.models.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.models.vocabulary import Characters
from modicum.methods.drum_transfer.options import Corpus, Reading
from modicum.methods.drum_transfer.text.drumroll import to_hits, to_record, without_separators
from modicum.methods.drum_transfer.text.midi import read_midi, write_midi
from modicum.methods.drum_transfer.text.notation import DRUMROLL, SEPARATOR, Groove, Notation
from modicum.methods.drum_transfer.train import (
    Adaptation,
    Config,
    DecoderSize,
    TrainedWeights,
    TrainingSet,
    train,
    window_of,
    without_instrument,
)
from modicum.options import from_json, to_json


class Nats:
    """What a model with a short context cannot be asked for."""

    per_line = per_token = 1.0


SMALL = DecoderSize(width=32, layers=1, heads=2, mlp=32, dropout=0.0)


def run_of(folder: Path, config: Config, **options: Any) -> Any:
    how = RunOptions(device="cpu", **options)
    with Run(folder, method="drum-transfer", config=config, options=how, quiet=True) as run:
        return train(config, run)


def test_windows_are_the_bars_of_the_record() -> None:
    record = to_record(made_up_grooves([3])[0])
    assert record is not None
    whole = (record.prompt + record.completion).split(SEPARATOR)
    assert window_of(record, 16, 0.99) == record
    for place in (0.0, 0.05, 0.1, 0.5, 0.999):
        window = window_of(record, 4, place)
        first = int(place * 13)
        text = window.prompt + window.completion
        assert without_separators(text) == "".join(whole[first : first + 4]).removesuffix("END")
        assert window.prompt.count(SEPARATOR) == max(0, 2 - first)
        assert text.endswith("END") == (first == 12)


def test_batches_are_a_function_of_seed_epoch_and_number() -> None:
    grooves = made_up_grooves(range(6))
    config = Config(window=3, drop_instrument=0.5, size=SMALL)
    make = TrainingSet(config, grooves, Characters(DRUMROLL.alphabet))
    one = make(SampleRandom(0, 1, np.array([2, 4])))
    other = make(SampleRandom(0, 1, np.array([4, 5, 2])))
    assert one.index.tolist() == [2, 4]
    for here, there in ((0, 2), (1, 0)):
        length = int((one.weights[here] > 0).sum())
        assert torch.equal(one.ids[here, :length], other.ids[there, :length])
    assert not torch.equal(one.ids, make(SampleRandom(0, 2, np.array([2, 4]))).ids)


def test_an_instrument_is_left_out() -> None:
    groove = made_up_grooves([0])[0]
    without = without_instrument(groove, "kick")
    before, after = to_hits(groove.text), to_hits(without.text)
    assert before[:, 3].any()
    assert not after[:, 3].any()
    assert np.array_equal(np.delete(before, 3, 1), np.delete(after, 3, 1))


def test_weights_of_prompt_and_completion() -> None:
    grooves = made_up_grooves(range(2))
    make = TrainingSet(Config(prompt_weight=0.25), grooves, Characters(DRUMROLL.alphabet))
    batch = make(SampleRandom(0, 0, np.array([0])))
    given = 2 * (16 * 7 + 4)
    assert batch.weights[0, :given].unique().tolist() == [0.25]
    assert batch.weights[0, given:].unique().tolist() == [1.0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_lowers_the_loss(tmp_path: Path, accumulate: int) -> None:
    config = Config(records=24, window=2, epochs=6, batch_size=4, learning_rate=0.01, size=SMALL)
    model = run_of(tmp_path / "run", config, accumulate=accumulate)
    records = config.to_records(made_up_grooves(range(500, 504)), "test")
    torch.manual_seed(0)
    untrained = Decoder(Characters(DRUMROLL.alphabet), **dataclasses.asdict(SMALL))
    assert completion_nats(model, records).per_line < completion_nats(untrained, records).per_line
    loaded = modicum.load(tmp_path / "run")
    ids = torch.arange(20).reshape(2, 10) % 8
    assert torch.equal(loaded(ids), model.eval()(ids))


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    config = Config(records=8, window=2, epochs=3, batch_size=4, size=SMALL)
    run_of(tmp_path / "run", config)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [line["val_nats_per_line"] for line in lines if "val_nats_per_line" in line]
    assert len(scores) == 3
    best = modicum.load(tmp_path / "run" / "best.safetensors")
    records = [r for g in config.open()["val"] if (r := config.record(g))]
    assert completion_nats(best, records).per_line == pytest.approx(min(scores), rel=1e-5)
    assert max(scores) > 1.001 * min(scores)


def test_checkpoints_hold_what_is_trained() -> None:
    model = Decoder(Characters(DRUMROLL.alphabet), **dataclasses.asdict(SMALL))
    model.embedding.weight.requires_grad_(False)
    kept = TrainedWeights(model)
    state = {name: weight.clone() for name, weight in kept.state_dict().items()}
    assert "embedding.weight" not in state
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    kept.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in kept.state_dict().items())


def test_a_loss_that_is_not_finite_names_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Decoder, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        return self.embedding.weight.sum() * torch.full((*ids.shape, 9), torch.nan)

    monkeypatch.setattr(Decoder, "forward", broken)
    with pytest.raises(TrainingError, match=r"records made-up_\d+.* at step 0"):
        run_of(tmp_path / "run", Config(records=4, size=SMALL))


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 6), ("test", 8)):
        for groove in made_up_grooves(range(first, first + (6 if split == "train" else 2))):
            (tmp_path / split).mkdir(exist_ok=True)
            write_midi(groove, tmp_path / split / f"{groove.name}.mid")
    config = Config(
        data=str(tmp_path), corpus=Corpus(notation="articulated"), epochs=1, window=2, size=SMALL
    )
    model = run_of(tmp_path / "run", config)
    assert model.vocabulary.size == len("\n-oSEPNDOxX") + 1


def write_in_meters(folder: Path) -> Path:
    """Grooves in 3/4, whose bars have 12 lines, and in 4/4, in every split."""
    number = 0
    for split, each in (("train", 4), ("val", 2), ("test", 2)):
        for beats in (3, 4) * each:
            groove = made_up_grooves([number], bars=12)[0]
            (folder / split).mkdir(parents=True, exist_ok=True)
            write_midi(groove, folder / split / f"{number}_{beats}.mid", meter=(beats, 4))
            number += 1
    return folder


@pytest.mark.parametrize("model", ["ngram", "scratch"])
def test_bars_follow_the_meter_of_each_groove(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_in_meters(tmp_path / "data"), tmp_path / "run"
    words = ["train", "drum-transfer", "--model", model, "--data", data, "--meter-bars", "--bars"]
    words += [9, "--epochs", 1, "--width", 32, "--layers", 1, "--heads", 2, "--mlp", 32]
    assert main([*map(str, words), "--out", str(out)]) == 0
    words = ["evaluate", "drum-transfer", "--run", out, "--styles", "--samples", 2, "--json"]
    capsys.readouterr()
    assert main(list(map(str, words))) == 0
    found = json.loads(capsys.readouterr().out)
    measures = {row["measure"]: row for row in found["measures"]}
    for name in ("people", "repeat", "random", "ngram", model):
        for measure in ("whole_bars", "right_length", "ended"):
            assert measures[measure][name] == 1
        assert measures["bad_lines"][name] == 0
    assert measures["stability"]["repeat"] == 0
    for beats in (3, 4):
        [file, *_] = (out / "written" / "random").glob(f"*_{beats}.txt")
        assert file.read_text().count("\n") == 9 * 4 * beats
    files = sorted((data / "test").glob("*.mid"))[:2]
    words = ["predict", "drum-transfer", *files, "--run", out, "--bars", 3, "--samples", 1]
    assert main([*map(str, words), "--formats", "mid", "--out", str(tmp_path / "new")]) == 0
    for file in files:
        beats = int(file.stem[-1])
        reading = Reading(meter_bars=True)
        written = read_midi(tmp_path / "new" / f"{file.stem}_1.mid", reading)
        assert written.meter == (beats, 4)
        assert written.notation.steps_per_bar == 4 * beats
        given = read_midi(file, reading).text.splitlines()[: 8 * beats]
        assert written.text.splitlines()[: 8 * beats] == given
        assert len(written.text.splitlines()) <= 5 * 4 * beats


def test_records_keep_their_notation() -> None:
    groove = dataclasses.replace(made_up_grooves([0])[0], notation=Notation(beats_per_bar=3))
    record = Config().record(groove)
    assert record is not None
    assert record.prompt.split(SEPARATOR)[0].count("\n") == 12
    assert window_of(record, 3, 0.5).notation == record.notation == groove.notation


def test_pitches_of_ones_own(tmp_path: Path) -> None:
    for number in range(4):
        groove = made_up_grooves([number])[0]
        write_midi(groove, tmp_path / f"{number}.mid")
        content = bytearray((tmp_path / f"{number}.mid").read_bytes())
        place = content.index(bytes([0x99, 36]))  # a kick drum becomes a maraca
        content[place + 1] = 70
        (tmp_path / f"{number}.mid").write_bytes(content)
    config = Config(data=str(tmp_path), corpus=Corpus(pitch_map=((70, "kick"),), strict=True))
    rebuilt = from_json(Config, json.loads(json.dumps(to_json(config))))
    assert rebuilt == config
    assert hash(rebuilt) == hash(config)
    texts = {groove.text for some in rebuilt.open().values() for groove in some}
    assert texts == {groove.text for groove in made_up_grooves(range(4))}
    with pytest.raises(DataError, match="--pitch-map 33 snare 31 none"):
        dataclasses.replace(config, corpus=Corpus(strict=True)).open()


def test_loudness_and_fills(small_data_set: str) -> None:
    soft, loud, fills = (
        Config(data=small_data_set, corpus=Corpus(notation="loudness", **options)).open()
        for options in ({"loud": 127}, {"loud": 1}, {"fills": True})
    )
    assert "O" not in "".join(groove.text for groove in soft["train"])
    assert "o" not in "".join(groove.text for groove in loud["train"])
    assert len(fills["train"]) == 1 + len(soft["train"])


@pytest.fixture
def small_data_set(tmp_path: Path) -> str:
    """Three beats and a fill."""
    rows = ["drummer,session,style,beat_type,time_signature,midi_filename,split"]
    kinds = ("beat", "train"), ("beat", "validation"), ("beat", "test"), ("fill", "train")
    for number, (kind, split) in enumerate(kinds):
        write_midi(made_up_grooves([number])[0], tmp_path / f"{number}.mid")
        rows.append(f"drummer1,drummer1/session1,rock,{kind},4-4,{number}.mid,{split}")
    (tmp_path / "info.csv").write_text("\n".join(rows) + "\n")
    return f"groove={tmp_path}"


def test_the_division_of_files_is_not_that_of_the_seed(tmp_path: Path) -> None:
    """Runs of different seeds are measured on the same grooves."""
    for number in range(12):
        write_midi(made_up_grooves([number])[0], tmp_path / f"{number}.mid")
    config = Config(data=str(tmp_path), model="ngram")
    counts = [run_of(tmp_path / f"run{seed}", config, seed=seed).state_dict() for seed in (0, 1)]
    assert torch.equal(counts[0]["pairs"], counts[1]["pairs"])
    assert torch.equal(counts[0]["counts"], counts[1]["counts"])


def test_grooves_that_are_too_short(tmp_path: Path) -> None:
    config = Config()
    short = Groove("short", "o-----\n" * 64)
    with pytest.raises(DataError, match="more than 8 bars"):
        config.to_records([short], "train")


def test_how_few_grooves_are_divided_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):  # of which 6 are to train on
        write_midi(made_up_grooves([number], bars=16)[0], tmp_path / f"{number}.mid")
    config = Config(data=str(tmp_path), model="ngram")
    used = {groove.name for groove in config.open()["train"]}
    with caplog.at_level("INFO", "modicum"):
        run_of(tmp_path / "whole", config)
        assert ": 6 grooves to train on, 1 to validate on, 1 to test on." in caplog.text
        short = sorted(used)[0]
        late = Groove(short, "------\n" * 16 * 10 + made_up_grooves([0])[0].text[: 7 * 16 * 6])
        write_midi(late, tmp_path / f"{short}.mid")
        run_of(tmp_path / "short", config)
    assert ": 5 grooves to train on, 1 to validate on, 1 to test on; left out, " in caplog.text
    assert caplog.messages[-1].endswith("no more than 8 bars from the first hit on: 1.")


def config_of(**options: Any) -> Config:
    """A configuration of flat options, as the command line has them."""
    groups = {"corpus": Corpus, "adaptation": Adaptation, "size": DecoderSize}
    for name, group in groups.items():
        names = {field.name for field in dataclasses.fields(group)} & options.keys()
        options[name] = group(**{field: options.pop(field) for field in names})
    return Config(**options)


def test_options_that_do_not_fit() -> None:
    for options, words in (
        ({"notation": "abc"}, "--notation"),
        ({"model": "scratch", "lora": 8}, "--lora"),
        ({"model": "smollm2", "lora": 8, "full": True}, "--lora: with --full"),
        ({"model": "smollm2", "adapters_only": True, "full": True}, "--adapters-only: with --full"),
        ({"model": "smollm2", "adapters_only": True, "random_weights": True}, "--adapters-only"),
        ({"model": "scratch", "adapters_only": True}, "--adapters-only: it is for a pre-trained"),
        ({"model": "ngram", "adapters_only": True}, "--adapters-only: it is for a pre-trained"),
        ({"pitch_map": ((33, "cowbell"),)}, "--pitch-map 33 cowbell"),
        ({"prompt_bars": 9}, "--prompt-bars"),
        ({"window": 0}, "--window"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"batch_size": 0}, "--batch-size"),
    ):
        with pytest.raises(ConfigError, match=words):
            config_of(**options)
    assert Adaptation().rank == 16
    assert Adaptation(full=True).rank is None
    assert Adaptation(random_weights=True).peak == 3e-4


def test_a_record_longer_than_the_model_sees(tmp_path: Path) -> None:
    groove = Groove("long", made_up_grooves([0])[0].text * 4)
    (tmp_path / "data").mkdir()
    for number in range(8):
        write_midi(groove, tmp_path / "data" / f"{number}.mid")
    with pytest.raises(ConfigError, match=r"7,\d+ tokens, but the model sees at most 4,096"):
        run_of(
            tmp_path / "run",
            Config(data=str(tmp_path / "data"), corpus=Corpus(bars=64), size=SMALL),
        )


@pytest.mark.parametrize(
    "options",
    [{"lora": 4}, {"full": True}, {"random_weights": True}, {"lora": 4, "adapters_only": True}],
    ids=["adapters", "full", "random", "adapters-only"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_language_model_goes_on_to_the_same_bits_and_is_loaded(
    tmp_path: Path, options: dict[str, Any], precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model")
    config = Config(
        model=str(folder), records=6, window=1, epochs=1, score_records=1,
        corpus=Corpus(bars=9), adaptation=Adaptation(**options),
    )  # fmt: skip
    module = sys.modules[Config.__module__]
    monkeypatch.setattr(module, "completion_nats", lambda *_, **__: Nats())
    monkeypatch.setattr(CausalModel, "check_length", lambda *_: None)
    whole = run_of(tmp_path / "whole", config, precision=precision)

    step, done = Run.step, []

    def killed(self: Run, *given: Any, **named: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(step(self, *given, **named))

    how = RunOptions(device="cpu", precision=precision, checkpoint_every=0)
    out = tmp_path / "run"
    monkeypatch.setattr(Run, "step", killed)
    with (
        pytest.raises(KeyboardInterrupt),
        Run(out, method="drum-transfer", config=config, options=how, quiet=True) as run,
    ):
        train(config, run)
    monkeypatch.setattr(Run, "step", step)
    with Run(
        out, method="drum-transfer", config=config, options=how, resume=True, quiet=True
    ) as run:
        again = train(config, run)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    loaded = modicum.load(out)
    ids = torch.arange(12).reshape(2, 6) % loaded.vocabulary.size
    torch.testing.assert_close(loaded(ids), again.eval()(ids))
    trained = {name for name, weight in again.named_parameters() if weight.requires_grad}
    assert all(("lora" in name) == ("lora" in options) for name in trained)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which file is written")
def test_twenty_kills_of_a_language_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "llama", "llama")
    words = ["train", "drum-transfer", "--preset", "smoke", "--model", str(model)]
    config = (model / "config.json").read_text()
    longer = config.replace('"max_position_embeddings": 256', '"max_position_embeddings": 2048')
    (model / "config.json").write_text(longer)
    try_twenty(tmp_path, "drum-transfer with a language model", words)
