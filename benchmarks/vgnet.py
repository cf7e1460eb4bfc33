"""VGNet's latency and training step beside those of its peers, in one process.

    python benchmarks/vgnet.py [--quick] [--threads 1 2] [--json results.json]

Weights are random, inputs are 224x224 float32; networks and modes take turns, so that whatever else
the machine does falls on all of them. Printed are milliseconds, median and minimum over the rounds:

- eager:    PyTorch as it is; `last` with network and images channels last;
- folded:   ours by `modicum.methods.vgnet.fold`, peers by PyTorch's own folding of BatchNorm;
- compiled: `torch.compile` of the network, and of ours folded (of few networks, and at batch 1
            only: compiling takes a minute a network);
- onnx:     ONNX Runtime on the exported network, and on the exported folded network.

The last lines say where the paper's claim, fewer parameters at lower latency, holds and where it
does not, from these numbers. Peers come from pytorchcv (the extra `benchmarks`).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modicum.methods.vgnet import BUILDERS, VGNet, count_multiply_adds, fold, vgnetg_1_0mp
from modicum.methods.vgnet.model import count_parameters, downsampling_kernels

SIZE = 224


@dataclass(frozen=True)
class Candidate:
    """A network and its published ImageNet top-1 accuracy in percent."""

    name: str
    build: Callable[[], nn.Module]
    top1: float
    source: str


PAPER = "VGNet paper, abstract"
AUTHORS = "VGNet authors' repository"
"""Their own runs, of peers too: 100 epochs, label smoothing, crop 224. Comparable among them."""

OURS = (
    Candidate("VGNetG-1.0MP", vgnetg_1_0mp, 67.7, PAPER),
    Candidate("VGNetG-1.0MP-SE", BUILDERS["vgnetg_1_0mp_se"], 69.2, PAPER),
    *(
        Candidate(
            f"VGNetG-{size} SiLU",
            functools.partial(BUILDERS[f"vgnetg_{size[0]}_{size[2]}mp"], revision="release2"),
            top1,
            AUTHORS,
        )
        for size, top1 in (("1.5MP", 70.494), ("2.0MP", 72.314), ("2.5MP", 73.740))
    ),
)


def _peer(module: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        # Not `pytorchcv.model_provider`: its newer versions import torchvision.
        return getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)()

    return build


PEERS = (
    Candidate("MobileNetV1 x0.5", _peer("mobilenet", "mobilenet_wd2"), 65.126, AUTHORS),
    Candidate("MobileNetV1 x0.75", _peer("mobilenet", "mobilenet_w3d4"), 69.688, AUTHORS),
    Candidate("MobileNetV2 x0.5", _peer("mobilenetv2", "mobilenetv2_wd2"), 63.458, AUTHORS),
    Candidate("MobileNetV2 x0.75", _peer("mobilenetv2", "mobilenetv2_w3d4"), 68.448, AUTHORS),
    Candidate("MobileNetV2 x1.0", _peer("mobilenetv2", "mobilenetv2_w1"), 72.154, AUTHORS),
    Candidate("ShuffleNetV2 x0.5", _peer("shufflenetv2", "shufflenetv2_wd2"), 58.5, AUTHORS),
    Candidate("ShuffleNetV2 x1.0", _peer("shufflenetv2", "shufflenetv2_w1"), 67.7, AUTHORS),
    Candidate("MobileNetV3-small", _peer("mobilenetv3", "mobilenetv3_small_w1"), 65.7, AUTHORS),
    # Not trained by the VGNet authors: longer recipes, so these accuracies flatter the peers.
    Candidate(
        "MobileNetV3-large",
        _peer("mobilenetv3", "mobilenetv3_large_w1"),
        75.2,
        "Howard et al., ICCV 2019, table 3",
    ),
    Candidate(
        "GhostNet x1.0",
        _peer("ghostnet", "ghostnet"),
        73.9,
        "Han et al., CVPR 2020, table 7",
    ),
)


QUICK = ("VGNetG-1.0MP", "MobileNetV2 x0.75", "ShuffleNetV2 x1.0", "MobileNetV3-small")
"""All that `--quick` measures, and all that is compiled otherwise."""


@dataclass
class Row:
    """What is known and measured of one network."""

    candidate: Candidate
    ours: bool
    network: nn.Module
    folded: nn.Module
    parameters: int
    mega_multiply_adds: float
    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, mode: str) -> float:
        """Milliseconds; infinity for what was not measured."""
        return statistics.median(self.milliseconds.get(mode, [float("inf")]))


def prepare(candidate: Candidate, ours: bool) -> Row:
    torch.manual_seed(0)
    network = candidate.build().eval()
    if isinstance(network, VGNet):
        folded = fold(network)
    else:
        from torch.fx.experimental.optimization import fuse

        folded = fuse(network)
    multiply_adds = count_multiply_adds(network, (1, 3, SIZE, SIZE)) / 1e6
    return Row(candidate, ours, network, folded, count_parameters(network)[1], multiply_adds)


def onnx_session(network: nn.Module, threads: int) -> Any:
    """ONNX Runtime's session, or None where it cannot be had."""
    try:
        import onnxruntime
    except ImportError:
        return None
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIZE, SIZE),),
        file,
        opset_version=17,
        input_names=["image"],
        dynamic_axes={"image": {0: "batch"}},
        dynamo=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file.getvalue(), options, ["CPUExecutionProvider"])


def runners(row: Row, image: Tensor, threads: int, compiled: bool) -> dict[str, Callable[[], Any]]:
    """For every mode, a call that computes the logits once."""
    last = image.contiguous(memory_format=torch.channels_last)
    as_last = prepare(row.candidate, row.ours).network.to(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], Any]] = {
        "eager": lambda: row.network(image),
        "last": lambda: as_last(last),
        "folded": lambda: row.folded(image),
    }
    if compiled:
        network, folded = torch.compile(row.network), torch.compile(row.folded)
        calls["compiled"] = lambda: network(image)
        if row.ours:
            calls["compiled folded"] = lambda: folded(image)
    feed = {"image": image.numpy()}
    session = onnx_session(row.network, threads)
    if session is not None:
        calls["onnx"] = lambda: session.run(None, feed)
    # Of the peers, the exporter folds the BatchNorms itself.
    short = onnx_session(row.folded, threads) if row.ours else None
    if short is not None:
        calls["onnx folded"] = lambda: short.run(None, feed)
    return calls


def interleave(calls: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Milliseconds of each call, in as many rounds, each in another order."""
    order = random.Random(0)
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call(), call()
    for _ in range(rounds):
        for key in order.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[key]()
            times[key].append(1000 * (time.perf_counter() - start))
    return times


MODES = ("eager", "last", "folded", "compiled", "compiled folded", "onnx", "onnx folded")


@torch.inference_mode()
def latency(rows: list[Row], batch: int, threads: int, rounds: int, compiled: bool) -> None:
    torch.set_num_threads(threads)
    image = torch.randn(batch, 3, SIZE, SIZE)
    calls = {
        (number, mode): call
        for number, row in enumerate(rows)
        for mode, call in runners(
            row, image, threads, compiled and row.candidate.name in QUICK
        ).items()
    }
    for row in rows:
        row.milliseconds = {}
    for (number, mode), times in interleave(calls, rounds).items():
        rows[number].milliseconds[mode] = times

    modes = [mode for mode in MODES if mode in rows[0].milliseconds]

    def cell(row: Row, mode: str) -> str:
        times = row.milliseconds.get(mode)
        return f"{row.median(mode):.2f}/{min(times):.2f}" if times else "-"

    print(f"\nbatch {batch}, {threads} thread(s): milliseconds, median/minimum of {rounds}")
    print(f"{'':<20}{'top-1':>6}{'M par.':>8}{'MFLOPs':>8}", *(f"{m:>16}" for m in modes))
    for row in rows:
        print(
            f"{row.candidate.name:<20}{row.candidate.top1:6.1f}{row.parameters / 1e6:8.2f}"
            f"{row.mega_multiply_adds:8.0f}",
            *(f"{cell(row, mode):>16}" for mode in modes),
        )
    print("times as fast as eager, medians")
    for row in rows:
        times = {mode: row.median("eager") / row.median(mode) for mode in row.milliseconds}
        ratios = (f"{times[mode]:.2f}" if mode in times else "-" for mode in modes)
        print(f"{row.candidate.name:<42}", *(f"{text:>16}" for text in ratios), flush=True)


WAYS = {
    "PyTorch": ("eager", "last", "folded"),
    "compiled": ("compiled", "compiled folded"),
    "ONNX Runtime": ("onnx", "onnx folded"),
}
"""A network is judged by its fastest mode of each way to run it."""


def verdicts(rows: list[Row], batch: int, threads: int) -> list[dict[str, Any]]:
    """Each peer against the smallest VGNet that is at least as accurate."""
    found: list[dict[str, Any]] = []
    for peer in (row for row in rows if not row.ours):
        rivals = [r for r in rows if r.ours and r.candidate.top1 >= peer.candidate.top1]
        if not rivals:
            found.append({"peer": peer.candidate.name, "batch": batch, "threads": threads})
            continue
        rival = min(rivals, key=lambda row: row.parameters)
        for way, modes in WAYS.items():
            ours, theirs = (min(row.median(mode) for mode in modes) for row in (rival, peer))
            if max(ours, theirs) < float("inf"):
                found.append(
                    {
                        "peer": peer.candidate.name,
                        "vgnet": rival.candidate.name,
                        "batch": batch,
                        "threads": threads,
                        "way": way,
                        "fewer_parameters": 1 - rival.parameters / peer.parameters,
                        "times_the_latency": ours / theirs,
                        "holds": ours < theirs and rival.parameters < peer.parameters,
                    }
                )
    return found


def print_verdicts(found: list[dict[str, Any]]) -> None:
    print("\nThe claim, fewer parameters at lower latency and no less accuracy, here:")
    for item in found:
        where = f"  batch {item['batch']}, {item['threads']} thread(s)"
        if "vgnet" not in item:
            print(f"{where}: no VGNet measured here is as accurate as {item['peer']}")
            continue
        print(
            f"{where}, {item['way']:<12} {'HOLDS' if item['holds'] else 'FAILS'}: {item['vgnet']} "
            f"takes {item['times_the_latency']:.2f} times as long as {item['peer']}, with "
            f"{100 * item['fewer_parameters']:.0f} % fewer parameters"
        )
    judged = [item for item in found if "vgnet" in item]
    for way in dict.fromkeys(item["way"] for item in judged):
        of_way = [item for item in judged if item["way"] == way]
        print(f"{way}: holds in {sum(i['holds'] for i in of_way)} of {len(of_way)} comparisons.")


class PlainDownsample(nn.Module):
    """`Downsample` as one writes it without this library."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kept = min(outputs // 2, inputs)
        self.downsample = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        kernels = downsampling_kernels("paper").repeat(inputs // 2, 1, 1)[:, None]
        self.downsample.weight = nn.Parameter(kernels, requires_grad=False)
        self.conv1x1 = plain_pointwise(inputs, outputs - self.kept)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, inputs, H, W)` to two halves of `(B, outputs / 2, H / 2, W / 2)`."""
        x = self.downsample(x)
        return x[:, -self.kept :], self.conv1x1(x)


class PlainHalfIdentity(nn.Module):
    """`HalfIdentity`, likewise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.half3x3 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.conv1x1 = plain_pointwise(width, half)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Two halves of `(B, width / 2, H, W)` to two of the same shape."""
        a, b = pair
        return b, self.conv1x1(torch.cat((a, self.half3x3(b)), 1))


def plain_pointwise(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(convolution, nn.ReLU(inplace=True), nn.BatchNorm2d(outputs))


class PlainVGNet(nn.Module):
    """VGNetG-1.0MP of the revision `paper`, transcribed into plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (28, 56, 112, 224, 368), (4, 7, 13, 2)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 28, 3, 2, 1, bias=False), nn.ReLU(inplace=True), nn.BatchNorm2d(28)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                PlainDownsample(widths[i], widths[i + 1]),
                *(PlainHalfIdentity(widths[i + 1]) for _ in range(layers[i] - 1)),
            )
            for i in range(4)
        )
        self.mux = nn.Conv2d(46, 46, 3, padding=1, groups=46, bias=False)
        self.last = plain_pointwise(368, 368)
        self.classifier = nn.Linear(368, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 1000)` of images `(B, 3, H, W)`."""
        x = self.stem(x)
        for stage in self.stages:
            x = torch.cat(stage(x), 1)
        x = torch.cat([self.mux(group) for group in x.chunk(8, 1)], 1)
        return self.classifier(self.last(x).mean((2, 3)))


def training_step(threads: int, rounds: int, batch: int = 32, size: int = 64) -> dict[str, Any]:
    """Forward, backward and SGD, beside the same layers in plain PyTorch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, plain = vgnetg_1_0mp(), PlainVGNet()
    # Both name their layers in the order they are used, so the weights can be copied by order.
    names, values = plain.state_dict().keys(), ours.state_dict().values()
    plain.load_state_dict(dict(zip(names, values, strict=True)))
    image, label = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))

    def stepper(network: nn.Module) -> Callable[[], float]:
        learned = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learned, lr=0.01, momentum=0.9, weight_decay=1e-4)

        def step() -> float:
            loss = nn.functional.cross_entropy(network(image), label, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    steps = {"ours": stepper(ours), "plain": stepper(plain)}
    losses = {name: step() for name, step in steps.items()}
    if abs(losses["ours"] - losses["plain"]) > 1e-4:
        raise AssertionError(f"the transcription computes something else: {losses}")
    times = interleave(steps, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["plain"], strict=True))
    print(
        f"\ntraining step of VGNetG-1.0MP, batch {batch}, {size}x{size}, {threads} thread(s), "
        f"{rounds} rounds\n"
        f"ours {medians['ours']:.1f} ms, plain PyTorch {medians['plain']:.1f} ms (medians); "
        f"minima {min(times['ours']):.1f} and {min(times['plain']):.1f}; "
        f"median ratio in a round {ratio:.3f}",
        flush=True,
    )
    return {"batch": batch, "size": size, "threads": threads, "milliseconds": times, "ratio": ratio}


@contextlib.contextmanager
def without_deprecations() -> Iterator[None]:
    """PyTorch announces that its ONNX exporter and its folding will be replaced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few networks, batch 1, no compiling")
    parser.add_argument("--json", type=Path, help="file for all times and verdicts")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, len(os.sched_getaffinity(0))}),
        help="numbers of threads to measure with (default: 1 and all)",
    )
    options = parser.parse_args()

    rows: list[Row] = []
    missing: list[str] = []
    for candidate in OURS + PEERS:
        if options.quick and candidate.name not in QUICK:
            continue
        try:
            rows.append(prepare(candidate, candidate in OURS))
        except (ImportError, AttributeError) as error:
            missing.append(f"{candidate.name}: skipped, {error}")
    print(f"PyTorch {torch.__version__}, {SIZE}x{SIZE}, float32, random weights")
    for line in missing:
        print(line)
    for row in rows:
        print(f"{row.candidate.name}: top-1 {row.candidate.top1} ({row.candidate.source})")

    record: dict[str, Any] = {"torch": torch.__version__, "latency": [], "training": []}
    found: list[dict[str, Any]] = []
    for threads in options.threads:
        for batch, rounds in ((1, 30),) if options.quick else ((1, 50), (32, 3)):
            latency(rows, batch, threads, rounds, compiled=batch == 1 and not options.quick)
            found += verdicts(rows, batch, threads)
            record["latency"] += [
                {
                    "network": row.candidate.name,
                    "top1": row.candidate.top1,
                    "source": row.candidate.source,
                    "parameters": row.parameters,
                    "mega_multiply_adds": row.mega_multiply_adds,
                    "batch": batch,
                    "threads": threads,
                    "milliseconds": row.milliseconds,
                }
                for row in rows
            ]
        record["training"].append(training_step(threads, 10 if options.quick else 30))
    print_verdicts(found)
    if options.json:
        options.json.write_text(json.dumps(record | {"verdicts": found}, indent=1))


if __name__ == "__main__":
    with without_deprecations():
        main()
