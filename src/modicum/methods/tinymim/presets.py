"""The recipes of TinyMIM and their presets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modicum.engine.run import RunOptions
from modicum.images import Distortions
from modicum.method import Preset, Recipe
from modicum.methods.tinymim.networks.builders import Model
from modicum.methods.tinymim.recipes import distil, finetune, mae, segment
from modicum.methods.tinymim.recipes.common import Fitting, Photographs, Shape
from modicum.options import replace

MIXED = RunOptions(precision="mixed")
IMAGENET = Photographs(data="imagenet", size=224)

# The small experiment: the digits at 16 pixels, in 16 patches.

DIGITS = Photographs(size=16)
BIG = Shape(model="small", width=48, depth=6, heads=6, mlp_ratio=2, patch=4)
"""The teacher's shape."""
LITTLE = Shape(model="tiny", width=24, depth=12, heads=3, mlp_ratio=2, patch=4)
"""The student's shape."""
RATE = 0.008
"""Learning rate for 256 images: 0.002 for 64."""

MAE_DIGITS = mae.Config(
    photographs=DIGITS,
    shape=BIG,
    decoder=mae.Decoder(decoder_width=32, decoder_depth=1, decoder_heads=4),
    fitting=Fitting(epochs=90, batch_size=64, learning_rate=RATE, warmup_epochs=9, score_every=10),
    mask_ratio=0.5,
    augmentation="shift",
)
DISTIL_DIGITS = distil.Config(
    photographs=DIGITS,
    shape=LITTLE,
    imitation=distil.Imitation(teacher_layer=4),
    fitting=Fitting(epochs=36, batch_size=64, learning_rate=RATE, warmup_epochs=4, score_every=10),
    drop_path=0.0,
    colour_jitter=0.0,
    augmentation="shift",
)
FINETUNE_DIGITS = finetune.Config(
    photographs=DIGITS,
    shape=LITTLE,
    fitting=Fitting(epochs=80, batch_size=50, learning_rate=0.01, warmup_epochs=4, score_every=10),
    labels=200,
    layer_decay=1.0,
    drop_path=0.0,
    augmentation="shift",
)
SHAPES = segment.Config(
    pairs=segment.Pairs(crop=64),
    shape=Shape(width=48, depth=4, heads=3, patch=16),
    head_width=32,
    auxiliary_width=16,
    steps=300,
    batch_size=16,
    learning_rate=1e-3,
    drop_path=0.0,
    layer_decay=1.0,
)
"""A small segmenter of the built-in shapes."""
_SEGMENTERS: tuple[tuple[str, Model, float], ...] = (
    ("", "base", 0.75),
    ("-tiny-star", "tiny-star", 0.8),
)
_TINY = {"depth": 2, "width": 24}
_SHORT = Fitting(epochs=2, batch_size=300, learning_rate=1e-3)


@dataclass(frozen=True)
class _Student:
    """What differs between the networks that the authors pre-train and fine-tune."""

    name: str
    model: Model
    heads: int
    teacher: str
    drop_path: float
    epochs: int


_STUDENTS = (
    _Student("", "base", 12, "mae_pretrain_vit_large.pth", 0.2, 100),
    _Student("-small", "small", 6, "runs/tinymim-base", 0.1, 200),
    _Student("-tiny", "tiny", 6, "runs/tinymim-small", 0.0, 200),
)


def _distil_imagenet(student: _Student) -> Preset:
    return Preset(
        f"300 epochs of {student.model} on ImageNet-1k without labels, batch 4096 (official code); "
        f"the teacher is {student.teacher}"
        + (", in sequence as the paper has it." if student.name else "."),
        distil.Config(
            teacher=Path(student.teacher),
            photographs=IMAGENET,
            shape=Shape(model=student.model, heads=student.heads),
            fitting=Fitting(
                epochs=300,
                batch_size=4096,
                learning_rate=1.5e-4,
                warmup_epochs=15,
                weight_decay=0.05,
            ),
            drop_path=0.1,
            colour_jitter=0.4,
            augmentation="crop",
        ),
        MIXED,
    )


def _finetune_imagenet(student: _Student) -> Preset:
    origin = "official code" if not student.name else "as base but longer and weaker, recalled"
    return Preset(
        f"{student.epochs} epochs of {student.model} on ImageNet-1k, batch 1024 ({origin}).",
        finetune.Config(
            init=Path(f"runs/tinymim{student.name or '-base'}"),
            photographs=IMAGENET,
            shape=Shape(model=student.model, heads=3 if student.model == "tiny" else None),
            fitting=Fitting(
                epochs=student.epochs,
                batch_size=1024,
                learning_rate=5e-4,
                warmup_epochs=5,
                minimum_learning_rate=1e-6,
            ),
            drop_path=student.drop_path,
            distortions=Distortions(rand_augment=9.0, random_erasing=0.25, mixup=0.8, cutmix=1.0),
        ),
        MIXED,
    )


MAE = Recipe(
    config=mae.Config,
    train=mae.train,
    presets={
        "default": Preset(
            "200 epochs of ViT-S for some thousand photographs of one's own, without labels.",
            mae.Config(),
        ),
        "mae-imagenet": Preset(
            "1600 epochs of ViT-L on ImageNet-1k, batch 4096 (He et al., CVPR 2022, table 8).",
            mae.Config(
                photographs=IMAGENET,
                shape=Shape(model="large"),
                fitting=Fitting(epochs=1600, batch_size=4096, warmup_epochs=40),
            ),
            MIXED,
        ),
        "digits": Preset("90 epochs of a small teacher on the built-in digits.", MAE_DIGITS),
        "smoke": Preset(
            "two short epochs on the built-in digits, to see that everything works.",
            replace(MAE_DIGITS, fitting=_SHORT, **_TINY),
        ),
    },
)
DISTIL = Recipe(
    config=distil.Config,
    train=distil.train,
    presets={
        "default": Preset(
            "100 epochs of ViT-T for some thousand photographs of one's own, without labels.",
            distil.Config(),
        ),
        **{f"distil-imagenet{each.name}": _distil_imagenet(each) for each in _STUDENTS},
        "digits": Preset(
            "36 epochs of a small student on the built-in digits; its teacher, which comes along, "
            "is that of mae's preset of this name.",
            replace(DISTIL_DIGITS, teacher=Path("digits")),
        ),
        "smoke": Preset(
            "two short epochs on the built-in digits, to see that everything works.",
            replace(DISTIL_DIGITS, teacher=Path("digits"), fitting=_SHORT, depth=2),
        ),
    },
)
FINETUNE = Recipe(
    config=finetune.Config,
    train=finetune.train,
    presets={
        "default": Preset(
            "100 epochs for some thousand labelled photographs of one's own.", finetune.Config()
        ),
        **{f"finetune-imagenet{each.name}": _finetune_imagenet(each) for each in _STUDENTS},
        "digits": Preset("80 epochs with 200 labels of the built-in digits.", FINETUNE_DIGITS),
        "smoke": Preset(
            "two short epochs on the built-in digits, to see that everything works.",
            replace(FINETUNE_DIGITS, fitting=_SHORT, labels=None, depth=2),
        ),
    },
)
SEGMENT = Recipe(
    config=segment.Config,
    train=segment.train,
    presets={
        "default": Preset(
            "ViT-T with crops of 512 pixels for pairs of images and masks of one's own.",
            segment.Config(),
        ),
        **{
            f"segment-ade20k{name}": Preset(
                f"160 000 steps of {model} on ADE20K, batch 16, crops of 512 pixels (official "
                f"code and log).",
                segment.Config(
                    init=Path(f"runs/tinymim-{model}-finetuned"),
                    pairs=segment.Pairs(data="ade20k=ADEChallengeData2016"),
                    shape=Shape(model=model, patch=16),
                    steps=160_000,
                    batch_size=16,
                    warmup_steps=1500,
                    layer_decay=decay,
                ),
                MIXED,
            )
            for name, model, decay in _SEGMENTERS
        },
        "shapes": Preset(
            "300 steps of a small network on the built-in shapes, in a minute.", SHAPES
        ),
        "smoke": Preset(
            "twelve steps on the built-in shapes, to see that everything works.",
            replace(
                SHAPES,
                steps=12,
                width=12,
                depth=4,
                head_width=8,
                auxiliary_width=4,
                head_dropout=0.0,
            ),
        ),
    },
)
