"""VGNet's latency and cost beside other small classifiers, and its training step beside plain code.

    python benchmarks/vgnet.py [--quick] [--json FILE]

All networks have random weights and are timed in one process, in turn, so that a busy machine slows
all of them alike. Printed for each network: published top-1 accuracy on ImageNet, parameters,
multiply-adds of a 224x224 image, and milliseconds a batch, minimum and median:

- eager: as built; channels-last: the same in that memory format;
- folded: `modicum.methods.vgnet.fold` for VGNet; for the others BatchNorm folded into the
  convolution before it (torch.fx);
- compiled and compiled folded: `torch.compile` with default settings;
- onnx and onnx folded: ONNX Runtime, CPU, from an opset 17 file. It folds the BatchNorms of the
  other networks by itself.

With one thread the time is CPU time of the process, with several it is wall-clock time. Then comes
a plain statement of where "lower latency than networks of that accuracy" holds and where it fails.
Needs: pip install 'modicum[benchmarks]'.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from modicum.engine.environment import processor_name, usable_cores
from modicum.methods.vgnet import BUILDERS, VGNet, count_multiply_adds, count_parameters, fold

SIZE = 224
LATENCY_CLAIM = "vgnetg_1_0mp"
"""The network of the abstract's sentence about latency."""
EQUAL_ACCURACY = 1.0
"""Points of top-1 within which two networks count as equally accurate."""


@dataclass(frozen=True)
class Published:
    """Accuracy as printed somewhere: top-1 on ImageNet in percent, single crop."""

    top1: float
    source: str


# VGNet, [P]: the abstract of arXiv:2207.10318; [C]: README of the authors' code, release of
# November 2022, whose networks have SiLU in place of ReLU. Networks trained there with the same
# recipe are marked so; the others are from the papers that introduced them, with other recipes.
SAME = "same recipe [C]"
PUBLISHED = {
    "vgnetg_1_0mp": Published(67.7, "[P]"),
    "vgnetg_1_0mp_se": Published(69.2, "[P]"),
    "vgnetg_1_5mp": Published(70.494, "release2 [C]"),
    "vgnetg_2_5mp": Published(73.740, "release2 [C]"),
    "mobilenet_wd2": Published(65.126, SAME),
    "mobilenetv2_wd2": Published(63.458, SAME),
    "mobilenetv2_w1": Published(72.154, SAME),
    "mobilenetv3_small_w1": Published(65.7, SAME + ", 64.5 in another run"),
    "mobilenetv3_large_w3d4": Published(73.3, "Howard et al. 2019, Table 3"),
    "shufflenetv2_wd2": Published(58.5, SAME + ", 58.2 in another run"),
    "shufflenetv2_w1": Published(67.7, SAME),
    "ghostnet": Published(73.9, "Han et al. 2020, Table 7"),
}
QUICK = ("vgnetg_1_0mp", "mobilenetv2_w1", "mobilenetv3_small_w1", "shufflenetv2_w1")
COMPILED = ("vgnetg_1_0mp", "mobilenetv3_small_w1", "shufflenetv2_w1")
"""Compiling takes minutes, so that only these are."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call."""

    minimum: float
    median: float


def interleave(
    calls: dict[Any, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[Any, Timing]:
    """Time calls in turn, after three rounds to warm up."""
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for number in range(3 + rounds):
        for name, call in calls.items():
            began = clock()
            call()
            if number >= 3:
                seconds[name].append(clock() - began)
    return {
        name: Timing(1000 * min(values), 1000 * statistics.median(values))
        for name, values in seconds.items()
    }


# Latency


def build(name: str) -> nn.Module:
    network = BUILDERS[name]() if name in BUILDERS else get_model(name, pretrained=False)
    return network.eval()


def folded(network: nn.Module) -> nn.Module:
    return fold(network) if isinstance(network, VGNet) else fuse(network)


def onnx_session(network: nn.Module, threads: int) -> onnxruntime.InferenceSession:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that works on all of them is an old one
        torch.onnx.export(
            network,
            (torch.randn(2, 3, SIZE, SIZE),),
            buffer,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        buffer.getvalue(), options, providers=["CPUExecutionProvider"]
    )


def latency_calls(
    name: str, batch: int, threads: int, compiled: bool
) -> dict[tuple[str, str], Callable[[], object]]:
    """What is timed of a network, by (network, mode)."""
    network = build(name)
    fast = folded(network)
    image = torch.randn(batch, 3, SIZE, SIZE)
    last = image.contiguous(memory_format=torch.channels_last)
    modes: dict[str, tuple[Callable[[Tensor], object], Tensor]] = {
        "eager": (network, image),
        "channels-last": (build(name).to(memory_format=torch.channels_last), last),
        "folded": (fast, image),
    }
    if compiled and name in COMPILED:
        modes["compiled"] = (torch.compile(network), image)
        modes["compiled folded"] = (torch.compile(fast), image)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for mode, (function, x) in modes.items():
        calls[name, mode] = partial(function, x)
    sessions = {"onnx": network} | ({"onnx folded": fast} if name in BUILDERS else {})
    for mode, module in sessions.items():
        session, feed = onnx_session(module, threads), {"image": image.numpy()}
        calls[name, mode] = partial(session.run, None, feed)
    return calls


@torch.inference_mode()
def latencies(
    names: Sequence[str], batch: int, threads: int, rounds: int, compiled: bool
) -> dict[tuple[str, str], Timing]:
    torch.set_num_threads(threads)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name in names:
        calls |= latency_calls(name, batch, threads, compiled)
    return interleave(calls, rounds, time.process_time if threads == 1 else time.perf_counter)


MODES = (
    "eager",
    "channels-last",
    "folded",
    "compiled",
    "compiled folded",
    "onnx",
    "onnx folded",
)


def print_latencies(
    names: Sequence[str], timings: dict[tuple[str, str], Timing], batch: int, threads: int
) -> None:
    clock = "CPU time" if threads == 1 else "wall-clock time"
    print(
        f"\nBatch {batch}, {threads} thread{'s' * (threads > 1)}: ms a batch, {clock}, min/median"
    )
    print(f"{'':24}" + "".join(f"{mode:>17}" for mode in MODES))
    for name in names:
        cells = [
            f"{t.minimum:.1f}/{t.median:.1f}" if (t := timings.get((name, mode))) else ""
            for mode in MODES
        ]
        print(f"{name:24}" + "".join(f"{cell:>17}" for cell in cells))
    eager = timings[LATENCY_CLAIM, "eager"]
    ratios = [
        f"{mode} {eager.minimum / t.minimum:.2f} ({eager.median / t.median:.2f})"
        for mode in MODES[1:]
        if (t := timings.get((LATENCY_CLAIM, mode)))
    ]
    print(f"{LATENCY_CLAIM}: times as fast as eager by the minima (medians): {', '.join(ratios)}")


def statement(timings: dict[tuple[str, str], Timing], batch: int, threads: int) -> list[str]:
    """Where the claim of lower latency holds: sentences, one a way of running the networks."""
    mine = PUBLISHED[LATENCY_CLAIM]
    sentences: list[str] = []
    for how, my_mode, their_mode in (
        ("eager PyTorch", "eager", "eager"),
        ("PyTorch with folded BatchNorms", "folded", "folded"),
        ("ONNX Runtime", "onnx folded", "onnx"),
    ):
        me = timings[LATENCY_CLAIM, my_mode].minimum
        groups: dict[str, list[str]] = {"holds": [], "fails": [], "costs": []}
        for (name, mode), timing in timings.items():
            if name in BUILDERS or mode != their_mode:
                continue
            gap = PUBLISHED[name].top1 - mine.top1
            text = f"{name} ({PUBLISHED[name].top1:.1f} %, {timing.minimum:.1f} ms)"
            if me < timing.minimum and gap <= EQUAL_ACCURACY:
                groups["holds"].append(text)
            elif me >= timing.minimum and gap >= -EQUAL_ACCURACY:
                groups["fails"].append(text)
            elif me >= timing.minimum:
                groups["costs"].append(text)
        sentences.append(
            f"{how}, batch {batch}, {threads} thread{'s' * (threads > 1)}: {LATENCY_CLAIM} "
            f"({mine.top1:.1f} %, {me:.1f} ms) is faster than these, which are no more accurate: "
            f"{', '.join(groups['holds']) or 'none'}. It is slower than these, which are no less "
            f"accurate: {', '.join(groups['fails']) or 'none'}. Slower, but more accurate, than: "
            f"{', '.join(groups['costs']) or 'none'}."
        )
    return sentences


# The training step


class PlainBlock(nn.Module):
    """A half-identity block as one would write it down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.depthwise = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.pointwise = nn.Conv2d(width, half, 1, bias=False)
        self.norm = nn.BatchNorm2d(half)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Two halves to two halves."""
        x = torch.cat((a, self.depthwise(b)), 1)
        return b, self.norm(torch.relu_(self.pointwise(x)))


class PlainVGNet(nn.Module):
    """The layers of VGNetG-1.0MP, written down for this one network."""

    def __init__(self, widths: Sequence[int], layers: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blurs = nn.ModuleList(
            nn.Conv2d(w, w, 3, 2, 1, groups=w, bias=False).requires_grad_(False)
            for w in widths[:-1]
        )
        self.kept = [min(out // 2, w) for w, out in pairwise(widths)]
        self.starts = nn.ModuleList(
            nn.Conv2d(w, out - kept, 1, bias=False)
            for (w, out), kept in zip(pairwise(widths), self.kept, strict=True)
        )
        self.start_norms = nn.ModuleList(
            nn.BatchNorm2d(out - kept) for out, kept in zip(widths[1:], self.kept, strict=True)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(PlainBlock(out) for _ in range(depth - 1))
            for out, depth in zip(widths[1:], layers, strict=True)
        )
        last, self.bank = widths[-1], widths[-1] // 8
        self.shared = nn.Conv2d(self.bank, self.bank, 3, padding=1, groups=self.bank, bias=False)
        self.last = nn.Conv2d(last, last, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(last)
        self.classifier = nn.Linear(last, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = self.stem_norm(torch.relu_(self.stem(x)))
        for blur, kept, start, norm, blocks in zip(
            self.blurs, self.kept, self.starts, self.start_norms, self.blocks, strict=True
        ):
            x = blur(x)
            a, b = x[:, -kept:], norm(torch.relu_(start(x)))
            for block in blocks:
                a, b = block(a, b)
            x = torch.cat((a, b), 1)
        parts = [self.shared(part) for part in x.chunk(8, 1)]
        x = self.last_norm(torch.relu_(self.last(torch.cat(parts, 1))))
        return self.classifier(x.mean((2, 3)))


def training_step(network: nn.Module, image: Tensor, label: Tensor) -> Callable[[], object]:
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.01, momentum=0.9)
    network.train()

    def step() -> None:
        loss = nn.functional.cross_entropy(network(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training_ratio(batch: int, rounds: int) -> tuple[Timing, Timing]:
    """The step of ours and of the plain transcription."""
    torch.set_num_threads(1)
    ours = BUILDERS[LATENCY_CLAIM]()
    plain = PlainVGNet(ours.arguments["channels"], ours.arguments["layers"])
    if count_parameters(plain) != count_parameters(ours):
        raise AssertionError("the plain transcription is of another network")
    image, label = torch.randn(batch, 3, SIZE, SIZE), torch.randint(1000, (batch,))
    calls = {
        "ours": training_step(ours, image, label),
        "plain": training_step(plain, image, label),
    }
    timings = interleave(calls, rounds, time.process_time)
    return timings["ours"], timings["plain"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few networks and rounds, one thread, no torch.compile"
    )
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    options = parser.parse_args()
    names = QUICK if options.quick else tuple(PUBLISHED)
    cores = usable_cores()
    print(
        f"{processor_name()}, {cores} usable cores; PyTorch {torch.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}; {SIZE}x{SIZE}, float32, "
        f"random weights"
    )

    record: dict[str, Any] = {"networks": {}, "latency_ms": [], "statements": []}
    print(f"\n{'':24}{'top-1':>8}{'parameters':>13}{'multiply-adds':>15}  source of top-1")
    for name in names:
        network = build(name)
        trainable, stored = count_parameters(network)
        multiply_adds = count_multiply_adds(network, (1, 3, SIZE, SIZE))
        published = PUBLISHED[name]
        million = f"{trainable / 1e6:.3f} M"
        mega = f"{multiply_adds / 1e6:.1f} M"
        print(f"{name:24}{published.top1:>8.1f}{million:>13}{mega:>15}  {published.source}")
        record["networks"][name] = {
            "top1": published.top1,
            "source": published.source,
            "trainable": trainable,
            "stored": stored,
            "multiply_adds": multiply_adds,
        }

    settings = [(1, 1, 20)] if options.quick else [(1, 1, 60), (32, 1, 5), (1, cores, 40)]
    if not options.quick:
        settings.append((32, cores, 5))
    for batch, threads, rounds in dict.fromkeys(settings):
        timings = latencies(names, batch, threads, rounds, not options.quick and batch == 1)
        print_latencies(names, timings, batch, threads)
        for (name, mode), timing in timings.items():
            record["latency_ms"].append(
                {"network": name, "mode": mode, "batch": batch, "threads": threads} | vars(timing)
            )
        sentences = statement(timings, batch, threads)
        record["statements"] += sentences
        print("\n".join(sentences))

    batch, rounds = (4, 8) if options.quick else (16, 10)
    ours, plain = training_ratio(batch, rounds)
    print(
        f"\nTraining step of {LATENCY_CLAIM}, batch {batch}, 1 thread, CPU time, ms, min/median: "
        f"ours {ours.minimum:.0f}/{ours.median:.0f}, plain transcription {plain.minimum:.0f}/"
        f"{plain.median:.0f}; ratio {ours.minimum / plain.minimum:.3f} by the minima, "
        f"{ours.median / plain.median:.3f} by the medians"
    )
    record["training_step_ms"] = {"batch": batch, "ours": vars(ours), "plain": vars(plain)}
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
