"""The paper's claims as arms with baselines, on the built-in digits or on images of yours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modicum import images
from modicum.claims import Claim, Picture, Stage, Study
from modicum.classification import accuracies, guessing
from modicum.method import load_saved
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder, kept_patches
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.methods.tinymim.pictures import png_of, reconstruction_strip, relation_maps
from modicum.methods.tinymim.presets import DISTIL_DIGITS, FINETUNE_DIGITS, MAE_DIGITS
from modicum.methods.tinymim.recipes import distil, finetune, mae
from modicum.methods.tinymim.recipes.common import Fitting, Photographs, Pipeline, Shape
from modicum.methods.tinymim.taps import tap
from modicum.options import replace

OURS, SCRATCH, RESTORED = "TinyMIM", "from scratch", "MAE on the student"
LAST, FEATURES, TOKEN, MASKED = "last layer", "features", "class token", "masked student"

CENTRAL = (
    Claim(
        "distilling beats starting from scratch",
        "With few labels, a small network that imitated relations of a teacher is more accurate "
        "than the same network from scratch (table 1).",
        method=OURS,
        baseline=SCRATCH,
        metric="top1",
    ),
    Claim(
        "distilling beats masked modelling of the student",
        "It is more accurate than the same network pre-trained by restoring patches itself, on "
        "the same images (abstract: a small network gains little from masked image modelling).",
        method=OURS,
        baseline=RESTORED,
        metric="top1",
    ),
)
ABLATIONS = (
    Claim(
        "relations beat features",
        "Relations are a better target than the features of the layer (abstract).",
        method=OURS,
        baseline=FEATURES,
        metric="top1",
    ),
    Claim(
        "relations beat the class token",
        "Relations are a better target than the class token (abstract).",
        method=OURS,
        baseline=TOKEN,
        metric="top1",
    ),
    Claim(
        "an intermediate layer",
        "A layer before the teacher's last is a better target than the last (abstract).",
        method=OURS,
        baseline=LAST,
        metric="top1",
    ),
    Claim(
        "masking does not help",
        "A student that sees all patches loses nothing to one that sees half of them: at most 1 "
        "point (the paper finds that masking hurts; the allowance is ours).",
        method=OURS,
        baseline=MASKED,
        metric="top1",
        threshold=-1.0,
    ),
)

# For photographs of 32 pixels and more: a teacher and a student that train in minutes.
_BIG = Shape(model="small", width=192, depth=8, heads=6, patch=4)
_LITTLE = Shape(model="tiny", width=48, depth=8, heads=3, patch=4)


def study(data: str | None = None) -> Study:
    """The central claims on the digits; of `digits` by name, or of a data set of yours, the paper's
    ablations as well.
    """
    if data in (None, "digits"):
        about = (
            "Handwritten digits of scikit-learn at 16 pixels: 1,200 without labels to pre-train, "
            "200 with labels to fine-tune, 597 for testing."
        )
        caveat = (
            "16 patches of digits, networks of a hundred thousand parameters: the order of the "
            "arms is the paper's question, their numbers are not the paper's."
        )
        arms, fingerprint = _arms(MAE_DIGITS, DISTIL_DIGITS, FINETUNE_DIGITS), ""
        claims = CENTRAL + ABLATIONS
        if data is None:
            arms, claims = {name: arms[name] for name in (OURS, RESTORED, SCRATCH)}, CENTRAL
    else:
        train_set, test_set = images.open_images(data, "train"), images.open_images(data, "val")
        seen = Photographs(data=data)
        labels = max(len(train_set.classes), len(train_set) // 10)
        arms = _arms(
            replace(MAE_DIGITS, photographs=seen, shape=_BIG, augmentation="crop", mask_ratio=0.75,
                    decoder=mae.Decoder(decoder_width=96, decoder_depth=2, decoder_heads=6),
                    fitting=Fitting(epochs=100, batch_size=256, learning_rate=1e-3)),
            replace(DISTIL_DIGITS, photographs=seen, shape=_LITTLE, augmentation="crop",
                    colour_jitter=0.4, teacher_layer=6,
                    fitting=Fitting(epochs=50, learning_rate=2e-3, batch_size=256)),
            replace(FINETUNE_DIGITS, photographs=seen, shape=_LITTLE, labels=labels,
                    augmentation="crop", smallest_crop=0.35,
                    fitting=Fitting(epochs=100, batch_size=64, learning_rate=4e-3)),
        )  # fmt: skip
        about = (
            f"{data}: {len(train_set):,} images without labels to pre-train, {labels:,} with "
            f"labels to fine-tune, {len(test_set):,} for testing, {len(train_set.classes)} classes."
        )
        caveat = "Small networks, short training: the ranking may differ at the published sizes."
        fingerprint = images.fingerprint(train_set) + images.fingerprint(test_set)
        claims = CENTRAL + ABLATIONS
    return Study(
        method="tinymim",
        data=about,
        arms=arms,
        claims=claims,
        skill="top1",
        shares=("top1",),
        measure=measure,
        pictures=pictures,
        caveat=caveat,
        fingerprint=fingerprint,
    )


def _arms(
    teaching: mae.Config, imitating: distil.Config, tuning: finetune.Config
) -> dict[str, Stage]:
    """Every arm ends with the same fine-tuning; those that distil share the teacher of a seed."""
    teacher = Stage(teaching, "mae")

    def distilled(**changes: Any) -> Stage:
        config = replace(imitating, **changes)
        return Stage(tuning, "finetune", {"init": Stage(config, "distil", {"teacher": teacher})})

    of_student = replace(
        teaching, shape=tuning.shape, fitting=imitating.fitting,
        decoder=dataclasses.replace(teaching.decoder, decoder_heads=4),
    )  # fmt: skip
    return {
        OURS: distilled(),
        LAST: distilled(teacher_layer=None),
        FEATURES: distilled(target="block"),
        TOKEN: distilled(target="cls"),
        MASKED: distilled(mask_ratio=0.5),
        RESTORED: Stage(tuning, "finetune", {"init": Stage(of_student, "mae")}),
        SCRATCH: Stage(tuning, "finetune"),
    }


@torch.no_grad()
def measure(config: finetune.Config, network: nn.Module) -> Mapping[str, float]:
    """Accuracy on the test images in percent, and what verdicts need, see `claims.Study`."""
    test_set = config.photographs.open("val", labelled=True, quiet=True)
    pipeline = Pipeline.of(config.photographs.size, test_set)
    loader = images.Loader(test_set, 256, transform=pipeline.evaluation(), workers=0)
    return {
        "tested": len(test_set),
        "by_chance": guessing(test_set.labels),
        "parameters": sum(p.numel() for p in network.parameters()),
        **accuracies(network, loader, quiet=True),
    }


def pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    """What the teacher restores, and relations of teacher and student before and after."""
    return _pictures(runs[OURS][0])


def _pictures(run: Path) -> list[Picture]:
    described = json.loads((run / "config.json").read_text())["config"]
    student_run = Path(described["init"])
    before = json.loads((student_run / "config.json").read_text())["config"]
    teacher = load_saved(Path(before["teacher"])).module
    student = load_saved(student_run)
    pipeline = Pipeline.from_notes(student.notes["pipeline"])
    network = student.module
    assert isinstance(teacher, MaskedAutoencoder)
    assert isinstance(network, VisionTransformer)
    test_set = images.open_images(student.notes["data"], "val")
    image: Tensor = pipeline.batch([pipeline.read(test_set.picture(0))])
    patches = teacher.encoder.grid[0] * teacher.encoder.grid[1]
    random = images.SampleRandom(0, 0, torch.zeros(1, dtype=torch.int64).numpy())
    keep = kept_patches(random, patches, 0.5)
    strip = reconstruction_strip(teacher, image, keep, pipeline)
    torch.manual_seed(0)
    fresh = VisionTransformer(**network.arguments).eval()
    layer = before["imitation"]["teacher_layer"] or len(teacher.encoder.blocks)
    with torch.no_grad():
        sides = {
            "teacher": tap(teacher.encoder, layer)(image, None).qkv,
            "student before": tap(fresh, len(fresh.blocks))(image, None).qkv,
            "student after": tap(network, len(network.blocks))(image, None).qkv,
        }
    middle = patches // 2 + teacher.encoder.grid[1] // 2
    return [
        Picture(
            "What the teacher restores",
            "A test image, the half of its patches that the teacher saw, and what it made of them.",
            png_of(strip.repeat(8, axis=0).repeat(8, axis=1) if strip.shape[0] < 64 else strip),
        ),
        Picture(
            "Relations",
            "What the patch with the frame has to do with every other, by queries and keys (qk) "
            "and by values (vv), the mean over heads; bright is much. After distillation the "
            "student's are those of the teacher.",
            relation_maps(image[0], middle, sides, pipeline),
        ),
    ]
