"""Reading, representing and augmenting events, and training on them, beside what can be installed.

    python benchmarks/events.py [--peers FOLDER] [--only files operations networks association]

- files:       million events a second of CPU time, one core, of synthetic files of every format;
- operations:  the same for frames, EventReverse (in time also by how many events share their time,
               since those keep their order) and EventDrift, and seconds to simulate digits;
- networks:    the small spiking network of 2 convolutions at 34x34 and 48x48, 10 time steps, batch
               16: a training step and a forward pass, ours beside SpikingJelly, snnTorch and norse,
               in turn in one process; and the memory that each takes, each in a process of its own;
- association: the associating layer beside the plain one.

Peers that are not installed are left out. `--peers FOLDER` makes a virtual environment there,
installs them in it (SpikingJelly, snnTorch and norse want libraries that clash with ours), and runs
this benchmark in it.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ("spikingjelly", "snntorch", "norse", "nirtorch", "nir", "h5py", "loguru")
STEPS, BATCH = 10, 16


def install_peers(folder: Path) -> Path:
    """An environment with modicum and the peers; the path of its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
        subprocess.run([*pip, "--editable", ROOT], check=True)
        # Without what they depend on: some of it replaces PyTorch, and neurons need none of it.
        subprocess.run([*pip, "--no-deps", *PEERS], check=True)
    return python


def cpu_seconds(work: Callable[[], Any], repeats: int = 7) -> float:
    """Median CPU seconds of a call, after one to warm up."""
    times: list[float] = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def interleave(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call in every round, in an order that changes with the round."""
    times: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for number in range(rounds + 3):
        random.Random(number).shuffle(names)
        for name in names:
            began = time.perf_counter()
            work[name]()
            if number >= 3:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def recording(count: int, height: int, width: int, seconds: float = 1.0) -> Any:
    import numpy as np

    from modicum.events import Events

    draw = np.random.default_rng(0)
    t = np.sort(draw.integers(0, int(seconds * 1e6), count))
    x, y = (draw.integers(0, side, count) for side in (width, height))
    return Events.of(t, x, y, draw.integers(0, 2, count), height=height, width=width)


def files() -> None:
    """Million events a second that files are read with."""
    import numpy as np

    from modicum.events import read, write

    count = 4_000_000
    print(f"\nreading {count:,} events, CPU time of one core, million events a second")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events = recording(count, 128, 128, seconds=8)
        for suffix in ("bin", "dat", "npz", "npy"):
            write(folder / f"a.{suffix}", events)
        address = ((events.y.astype(np.int64) << 8) | (events.x.astype(np.int64) << 1)) | events.p
        records = np.stack([address, events.t], axis=1).astype(">u4")
        (folder / "a2.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + records.tobytes())
        (folder / "a3.aedat").write_bytes(aedat3(events))
        for file in sorted(folder.iterdir()):
            found = read(file)
            assert len(found) == count, file
            seconds = cpu_seconds(lambda file=file: read(file))
            print(f"  {file.name:<10} {count / seconds / 1e6:7.0f}", flush=True)


def aedat3(events: Any, packet: int = 4096) -> bytes:
    """An AEDAT 3.1 file of polarity packets."""
    import struct

    import numpy as np

    data = (
        (events.x.astype(np.int64) << 17) | (events.y.astype(np.int64) << 2) | (events.p << 1) | 1
    )
    pairs = np.stack([data, events.t], axis=1).astype("<u4")
    parts = [b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"]
    for start in range(0, len(pairs), packet):
        part = pairs[start : start + packet]
        parts.append(struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, len(part), len(part), len(part)))
        parts.append(part.tobytes())
    return b"".join(parts)


def operations() -> None:
    """Million events a second of what training does with events."""
    from modicum import events
    from modicum.methods.event_augmentation import (
        ESTF,
        EventDrift,
        EventDrop,
        EventID,
        EventReverse,
    )

    count = 10_000_000
    stream = events.EventBatch.of([recording(count, 180, 240)])
    small = events.EventBatch.of([recording(5000, 34, 34, 0.3)] * 128)
    work: dict[str, Callable[[Any, int], Any]] = {
        "frames by number, T=10": lambda batch, seed: events.frames(batch, 10),
        "frames by equal time, T=10": lambda batch, seed: events.frames(batch, 10, "equal"),
    }
    for mode in ("time", "polarity", "x"):
        work[f"EventReverse, {mode}"] = augmented(EventReverse(p=1.0, modes=(mode,)))
    for mode in ("space", "time"):
        work[f"EventDrift, {mode}"] = augmented(EventDrift(p=1.0, modes=(mode,)))
    work |= {
        "EventID, as trained with": augmented(EventID()),
        "ESTF, as trained with": augmented(ESTF()),
        "EventDrop": augmented(EventDrop()),
    }
    print(f"\nCPU time of one core, million events a second: one stream of {count:,} events at")
    print("180x240; a batch of 128 recordings of 5,000 at 34x34")
    for name, run in work.items():
        rates: list[float] = []
        for batch in (stream, small):
            seeds = iter(range(1000))
            seconds = cpu_seconds(lambda b=batch, s=seeds, run=run: run(b, next(s)))
            rates.append(len(batch) / seconds / 1e6)
        print(f"  {name:<28} {rates[0]:7.0f} {rates[1]:7.0f}", flush=True)
    print("EventReverse, time, of such a stream; tied: at the same time as the event before")
    reverse = augmented(EventReverse(p=1.0, modes=("time",)))
    for duration in (100, 10, 1):
        tied_stream = events.EventBatch.of([recording(count, 180, 240, duration)])
        tied = float((tied_stream.t[1:] == tied_stream.t[:-1]).mean())
        seconds = cpu_seconds(lambda batch=tied_stream: reverse(batch, 0))
        print(f"  {tied:4.0%} tied {count / seconds / 1e6:24.0f}", flush=True)
    seconds = cpu_seconds(lambda: events.digit_recordings("train", 600), 3)
    print(f"  simulating 600 digits takes {seconds:.2f} s")


def augmented(operator: Any) -> Callable[[Any, int], Any]:
    import numpy as np

    from modicum.engine.random import SampleRandom

    return lambda batch, seed: operator(batch, SampleRandom(seed, 0, np.arange(batch.size)))


# The small network in every library: conv(2,16,3,s2)-BN-LIF-conv(16,32,3,s2)-BN-LIF-FC.


def ours(size: int) -> Any:
    from modicum.spiking.networks import small

    network = small(size=size)
    return network, lambda frames: network(frames.transpose(0, 1)).mean(1)


def in_spikingjelly(size: int) -> Any:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate
    from torch import nn

    def lif() -> Any:
        atan = surrogate.ATan()
        return neuron.LIFNode(2.0, decay_input=False, surrogate_function=atan, step_mode="m")

    side = (size + 3) // 4  # two strides of 2, rounded up
    network = nn.Sequential(
        layer.Conv2d(2, 16, 3, 2, 1, step_mode="m"),
        layer.BatchNorm2d(16, step_mode="m"),
        lif(),
        layer.Conv2d(16, 32, 3, 2, 1, step_mode="m"),
        layer.BatchNorm2d(32, step_mode="m"),
        lif(),
        layer.Flatten(step_mode="m"),
        layer.Linear(32 * side * side, 10, step_mode="m"),
    )

    def run(frames: Any) -> Any:
        functional.reset_net(network)
        return network(frames).mean(0)

    return network, run


class Merged:
    """Convolutions and normalisation on all time steps at once, neurons step by step.

    That is the fastest way to use libraries whose neurons take one step.
    """

    def __init__(self, size: int, neurons: list[Any], call: Callable[..., Any]) -> None:
        from torch import nn

        side = (size + 3) // 4  # two strides of 2, rounded up
        self.convolutions = [nn.Conv2d(2, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)]
        self.norms = [nn.BatchNorm2d(16), nn.BatchNorm2d(32)]
        self.linear = nn.Linear(32 * side * side, 10)
        self.neurons = neurons
        self.call = call
        self.network = nn.ModuleList([*self.convolutions, *self.norms, self.linear, *neurons])

    def __call__(self, frames: Any) -> Any:
        """Frames `(T, B, 2, H, W)` to logits `(B, 10)`."""
        import torch

        x = frames
        for conv, norm, neuron in zip(self.convolutions, self.norms, self.neurons, strict=True):
            currents = norm(conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
            state, spikes = None, []
            for current in currents:
                spike, state = self.call(neuron, current, state)
                spikes.append(spike)
            x = torch.stack(spikes)
        return self.linear(x.flatten(2)).mean(0)


def in_snntorch(size: int) -> Any:
    import snntorch

    def call(neuron: Any, current: Any, state: Any) -> Any:
        return neuron(current, neuron.init_leaky() if state is None else state)

    net = Merged(size, [snntorch.Leaky(beta=0.5) for _ in range(2)], call)
    return net.network, net


def in_norse(size: int) -> Any:
    import norse.torch as norse

    def call(neuron: Any, current: Any, state: Any) -> Any:
        return neuron(current, state)

    net = Merged(size, [norse.LIFBoxCell() for _ in range(2)], call)
    return net.network, net


LIBRARIES = {
    "modicum": ours,
    "SpikingJelly": in_spikingjelly,
    "snnTorch": in_snntorch,
    "norse": in_norse,
}


def frames_of(size: int) -> Any:
    import torch

    chance = torch.rand(STEPS, BATCH, 2, size, size, generator=torch.Generator().manual_seed(0))
    return (chance < 0.1).float()


def training_step(build: Callable[[int], Any], size: int) -> tuple[Callable[[], Any], Any, Any]:
    """A training step of a library's network, the network, and its forward function."""
    import torch

    network, forward = build(size)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    frames, labels = frames_of(size), torch.arange(BATCH) % 10

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward(frames), labels).backward()
        optimizer.step()

    return step, network, forward


def networks(rounds: int) -> None:
    """Milliseconds of training step and forward pass, and memory, in every library."""
    import torch

    print(f"\nsmall spiking network, T={STEPS}, batch {BATCH}, one thread, median ms of {rounds}")
    for size in (34, 48):
        train: dict[str, Callable[[], Any]] = {}
        evaluate: dict[str, Callable[[], Any]] = {}
        for name, build in LIBRARIES.items():
            try:
                train[name], *_ = training_step(build, size)
                _, network, forward = training_step(build, size)
            except ImportError as error:
                print(f"  {name} is left out: {error}")
                continue
            network.eval()
            evaluate[name] = torch.no_grad()(partial(forward, frames_of(size)))
        for what, work in (("training step", train), ("forward, eval", evaluate)):
            times = interleave(work, rounds)
            medians = {name: statistics.median(values) for name, values in times.items()}
            peers = [medians[name] for name in medians if name != "modicum"]
            line = ", ".join(f"{name} {median:.2f}" for name, median in medians.items())
            best = f"; {min(peers) / medians['modicum']:.2f} times the best peer" if peers else ""
            print(f"  {size}x{size} {what}: {line}{best}", flush=True)
    print("\nmemory of 20 training steps at 48x48 above that of the imports, MiB")
    for name in LIBRARIES:
        command = [sys.executable, __file__, "--memory-of", name]
        done = subprocess.run(command, capture_output=True, text=True)
        print(f"  {name}: {done.stdout.strip() or 'left out'}", flush=True)


def memory_of(name: str) -> None:
    """Print the growth of this process's peak memory by training."""
    import torch

    torch.set_num_threads(1)
    step, *_ = training_step(LIBRARIES[name], 48)
    before = peak_kilobytes()
    for _ in range(20):
        step()
    print(f"{(peak_kilobytes() - before) / 1024:.0f}")


def peak_kilobytes() -> int:
    """Peak memory of this process (Linux); `getrusage` would count that of its parent as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def both_ways(layer: Any, x: Any, upstream: Any) -> None:
    """Forward and backward of a layer."""
    layer(x).backward(upstream)


def association(rounds: int) -> None:
    """The associating layer beside the plain one, in training and in eval.

    A layer is synapses, normalisation and neurons; the synapses by themselves are timed too.
    """
    import torch
    from torch import nn

    from modicum.methods.apbs import LIF, AssociativeConv2d, SpikingLayer

    print(
        f"\nassociating layer beside the plain one, T={STEPS}, batch {BATCH}, one thread, median ms"
    )
    for inputs, side, channels, stride in ((2, 34, 16, 2), (16, 17, 32, 2), (16, 24, 32, 1)):
        shape = (STEPS, BATCH, side, side, inputs)  # channels last
        x = (torch.rand(shape) < 0.1).float().permute(0, 1, 4, 2, 3)
        x.requires_grad_(inputs > 2)  # frames need no gradient, spikes do
        layers: dict[str, Any] = {}
        for name, kind in (("plain", nn.Conv2d), ("associating", AssociativeConv2d)):
            synapses = kind(inputs, channels, 3, stride, 1)
            layers[name] = SpikingLayer(synapses, nn.BatchNorm2d(channels), LIF.tet())
            layers[name](x)  # fills the cache
        print(f"  {inputs} to {channels} channels, {side}x{side}, stride {stride}:", flush=True)
        for what, pick, given in (
            ("layer", lambda layer: layer, x),
            ("convolution", lambda layer: layer.synapses, x.detach().flatten(0, 1)),
        ):
            picked = {name: pick(layer) for name, layer in layers.items()}
            given = given.detach().requires_grad_(inputs > 2)
            upstream = torch.randn_like(picked["plain"](given))
            modes = {
                "training": {n: partial(both_ways, p, given, upstream) for n, p in picked.items()},
                "eval": {n: torch.no_grad()(partial(p, given)) for n, p in picked.items()},
            }
            for mode, work in modes.items():
                for layer in layers.values():
                    layer.train(mode == "training")
                times = interleave(work, rounds)
                plain, ours = (statistics.median(times[n]) for n in ("plain", "associating"))
                pairs = zip(times["associating"], times["plain"], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                print(f"    {what}, {mode}: {plain:.2f} and {ours:.2f} ({ratio:.2f} times)")


PARTS = ("files", "operations", "networks", "association")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of an environment to make and run in")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--memory-of", choices=list(LIBRARIES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers is not None:
        words = ["--only", *options.only, "--rounds", str(options.rounds)]
        python = str(install_peers(options.peers))
        os.execv(python, [python, __file__, *words])
    if options.memory_of:
        memory_of(options.memory_of)
        return
    import torch

    from modicum.engine.memory import keep_freed_memory

    keep_freed_memory()  # as in every training run; the peers have it too
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"PyTorch {torch.__version__}")
    if "files" in options.only:
        files()
    if "operations" in options.only:
        operations()
    if "networks" in options.only:
        networks(options.rounds)
    if "association" in options.only:
        association(options.rounds)


if __name__ == "__main__":
    main()
