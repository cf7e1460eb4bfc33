"""A step of distillation beside the official one, in one process.

    python benchmarks/tinymim.py [--rounds 5] [--batch 4] [--threads 1] [--json results.json]

The step: forward of a ViT-B teacher, forward and backward of a ViT-T student at 224 pixels, AdamW.
`official` computes it as the authors' code does: attention as two products with a softmax between,
all of the teacher, relations by softmax, and the divergence of the logarithm of a softmax. Variants
take turns, so that whatever else the machine does falls on all of them. Printed are CPU seconds,
minimum and median over the rounds, the ratio of official to each of the minima, the loss, and the
memory of a process that takes the step alone.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from modicum.engine.optimizers import parameter_groups
from modicum.methods.tinymim.distillation import RelationDistillation
from modicum.methods.tinymim.networks.builders import vit_base, vit_tiny
from modicum.methods.tinymim.networks.vit import QueryKeyValue, VisionTransformer

Step = Callable[[Tensor, Tensor], float]


def networks() -> tuple[VisionTransformer, VisionTransformer]:
    torch.manual_seed(0)
    return vit_base(), vit_tiny(heads=6, last_heads=12, drop_path=[0.0] * 12)


def explicit(network: VisionTransformer, images: Tensor) -> QueryKeyValue:
    """All of a network, with attention written out; queries, keys and values of its last block."""
    x = network.embed(images)
    for block in network.blocks:
        qkv = block.attn.split(block.norm1(x))
        weights = (qkv.q @ qkv.k.transpose(-2, -1) / math.sqrt(qkv.q.shape[-1])).softmax(-1)
        x = x + block.attn.proj((weights @ qkv.v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    network.norm(x)
    return qkv


def divergence(t: tuple[Tensor, Tensor], s: tuple[Tensor, Tensor]) -> Tensor:
    """Of a relation, by the logarithm of a softmax."""
    p, q = ((a @ b.transpose(-2, -1) / math.sqrt(a.shape[-1])).softmax(-1) for a, b in (t, s))
    return functional.kl_div(q.log(), p, reduction="none").sum(-1).mean()


def official() -> Step:
    teacher, student = networks()
    optimizer = torch.optim.AdamW(parameter_groups(student, 0.05), lr=1e-4, betas=(0.9, 0.95))

    def step(images: Tensor, seen: Tensor) -> float:
        with torch.no_grad():
            t = explicit(teacher, images)
        s = explicit(student, seen)
        loss = divergence((t.q, t.k), (s.q, s.k)) + divergence((t.v, t.v), (s.v, s.v))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def ours(teacher_precision: torch.dtype | None = None, student_bf16: bool = False) -> Step:
    teacher, student = networks()
    distillation = RelationDistillation(
        teacher, student, teacher_layer=12, teacher_precision=teacher_precision
    )
    optimizer = torch.optim.AdamW(parameter_groups(student, 0.05), lr=1e-4, betas=(0.9, 0.95))

    def step(images: Tensor, seen: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=student_bf16):
            losses = distillation(images, seen)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


VARIANTS: dict[str, Callable[[], Step]] = {
    "official": official,
    "fp32": ours,
    "teacher in bf16": lambda: ours(torch.bfloat16),
    "both in bf16": lambda: ours(torch.bfloat16, student_bf16=True),
}


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=random)
    return images, images + 0.1 * torch.randn(images.shape, generator=random)


def peak_mebibytes(name: str, batch: int) -> float:
    """Of a process that takes two steps of one variant."""
    command = [sys.executable, __file__, "--alone", name, "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    batch = inputs(asked.batch)
    if asked.alone:
        step = VARIANTS[asked.alone]()
        for _ in range(2):
            step(*batch)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    # Before this process grows: what it starts counts as having been as large as it is.
    peaks = {name: peak_mebibytes(name, asked.batch) for name in VARIANTS}
    steps = {name: build() for name, build in VARIANTS.items()}
    losses = {name: step(*batch) for name, step in steps.items()}  # the first step warms up
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(asked.rounds):
        for name, step in steps.items():
            began = time.process_time()
            step(*batch)
            seconds[name].append(time.process_time() - began)
    rows = []
    for name, measured in seconds.items():
        rows.append({
            "variant": name,
            "cpu_s_min": min(measured),
            "cpu_s_median": statistics.median(measured),
            "times_official": min(seconds["official"]) / min(measured),
            "loss": losses[name],
            "peak_mib": peaks[name],
        })  # fmt: skip
    print(f"{'':16} {'min s':>7} {'median':>7} {'ratio':>6} {'loss':>10} {'MiB':>6}")
    for row in rows:
        print(
            f"{row['variant']:16} {row['cpu_s_min']:7.3f} {row['cpu_s_median']:7.3f} "
            f"{row['times_official']:6.2f} {row['loss']:10.6f} {row['peak_mib']:6.0f}"
        )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
