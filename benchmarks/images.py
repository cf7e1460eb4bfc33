"""Image loading and augmentation against what one would write without this library.

    python benchmarks/images.py [--images 600] [--workers 2]

Prints images a second, medians of interleaved rounds, and the ratio to the plain version:

- files: a folder of generated JPEGs of ImageNet's usual size through `Loader`, against a
  `Dataset` that opens, crops and flips one image at a time with Pillow, in the same number of
  workers of PyTorch's `DataLoader`;
- tensors: the batched steps on images in memory, against a loop over Pillow images.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import DataLoader, Dataset

from modicum.images import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    AutoAugmentCifar10,
    HorizontalFlip,
    Loader,
    Normalise,
    RandAugment,
    RandomResizedCrop,
    RandomShift,
    SampleRandom,
    open_images,
)
from modicum.images.policies import POLICY_CIFAR10

ROUNDS = 5


def write_folder(root: Path, count: int, width: int = 500, height: int = 375) -> None:
    """Smooth pictures with some noise, so that the files are about as large as photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(picture).astype(np.int16) + rng.integers(-8, 9, (height, width, 3))
        path = root / f"class{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def to_tensor(picture: Image.Image, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return (pixels.float().div(255) - mean) / std


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


class PlainImages(Dataset[tuple[torch.Tensor, int]]):
    """One image at a time, as it is usually written."""

    def __init__(self, root: Path) -> None:
        self.paths = sorted(root.glob("*/*.jpg"))
        self.mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[number]) as file:
            picture = file.convert("RGB")
        picture = picture.crop(random_box(*picture.size)).resize(
            (224, 224), Image.Resampling.BILINEAR
        )
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(picture, self.mean, self.std), 0


def auto_augment(picture: Image.Image) -> Image.Image:
    """AutoAugment's policy with Pillow, for one image."""
    affine = Image.Transform.AFFINE
    for name, probability, level in random.choice(POLICY_CIFAR10):
        if random.random() >= probability:
            continue
        m = level / 9 * random.choice((-1, 1))
        x, y = int(m * picture.width * 150 / 331), int(m * picture.height * 150 / 331)
        if name == "ShearX":
            picture = picture.transform(picture.size, affine, (1, 0.3 * m, 0, 0, 1, 0))
        elif name == "ShearY":
            picture = picture.transform(picture.size, affine, (1, 0, 0, 0.3 * m, 1, 0))
        elif name == "TranslateX":
            picture = picture.transform(picture.size, affine, (1, 0, x, 0, 1, 0))
        elif name == "TranslateY":
            picture = picture.transform(picture.size, affine, (1, 0, 0, 0, 1, y))
        elif name == "Rotate":
            picture = picture.rotate(30 * m)
        elif name in ("Brightness", "Color", "Contrast", "Sharpness"):
            picture = getattr(ImageEnhance, name)(picture).enhance(1 + 0.9 * m)
        elif name == "Posterize":
            picture = ImageOps.posterize(picture, 8 - round(4 * abs(m)))
        elif name == "Solarize":
            picture = ImageOps.solarize(picture, int(255 * (1 - abs(m))))
        else:
            names = {"AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert"}
            picture = getattr(ImageOps, names[name])(picture)
    return picture


def plain_cifar(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR10_MEAN, CIFAR10_STD))
    made = []
    for image in images:
        picture = ImageOps.expand(Image.fromarray(image.permute(1, 2, 0).numpy()), 4)
        left, top = random.randint(0, 8), random.randint(0, 8)
        picture = picture.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        made.append(to_tensor(auto_augment(picture), mean, std))
    return torch.stack(made)


def rand_augment(picture: Image.Image) -> Image.Image:
    """RandAugment's operations with Pillow, for one image."""
    affine, cubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    fill = (124, 116, 104)
    for _ in range(2):
        if random.random() < 0.5:
            continue
        level = min(max(random.gauss(9, 0.5), 0), 10) / 10
        m = level * random.choice((-1, 1))
        name = random.choice(RAND_NAMES)
        if name in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
            matrix = {
                "ShearX": (1, 0.3 * m, 0, 0, 1, 0),
                "ShearY": (1, 0, 0, 0.3 * m, 1, 0),
                "TranslateX": (1, 0, 0.45 * m * picture.width, 0, 1, 0),
                "TranslateY": (1, 0, 0, 0, 1, 0.45 * m * picture.height),
            }[name]
            picture = picture.transform(picture.size, affine, matrix, cubic, fillcolor=fill)
        elif name == "Rotate":
            picture = picture.rotate(30 * m, cubic, fillcolor=fill)
        elif name in ("Brightness", "Color", "Contrast", "Sharpness"):
            picture = getattr(ImageEnhance, name)(picture).enhance(max(0.1, 1 + 0.9 * m))
        elif name == "Posterize":
            picture = ImageOps.posterize(picture, max(1, 4 - int(4 * level)))
        elif name == "Solarize":
            picture = ImageOps.solarize(picture, 256 - int(256 * level))
        elif name == "SolarizeAdd":
            added = [i + int(110 * level) if i < 128 else i for i in range(256)]
            picture = picture.point(added * 3)
        else:
            names = {"AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert"}
            picture = getattr(ImageOps, names[name])(picture)
    return picture


RAND_NAMES = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY"),
    *("TranslateX", "TranslateY"),
)


def plain_rand_augment(images: torch.Tensor) -> list[np.ndarray]:
    return [
        np.asarray(rand_augment(Image.fromarray(image.permute(1, 2, 0).numpy())))
        for image in images
    ]


def plain_crop(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    made = []
    for image in images:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        size = (images.shape[3], images.shape[2])
        picture = picture.crop(random_box(*picture.size)).resize(size, Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        made.append(to_tensor(picture, mean, std))
    return torch.stack(made)


def compare(
    title: str, count: int, ours: Callable[[], object], plain: Callable[[], object]
) -> None:
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(ROUNDS):
        for name, run in (("ours", ours), ("plain", plain)):
            start = time.perf_counter()
            run()
            rates[name].append(count / (time.perf_counter() - start))
    a, b = (statistics.median(rates[name]) for name in ("ours", "plain"))
    print(f"{title:<58} ours {a:8.0f}/s   plain {b:8.0f}/s   ratio {a / b:6.2f}", flush=True)


def files(count: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for width, height in ((500, 375), (2000, 1500)):
            root = Path(folder, str(width))
            number = count if width == 500 else count // 6
            write_folder(root, number, width, height)
            images = open_images(root, "train", holdout=0, memory_limit=0)
            recipe = (
                RandomResizedCrop(224),
                HorizontalFlip(),
                Normalise(IMAGENET_MEAN, IMAGENET_STD),
            )
            loader = Loader(images, 64, transform=recipe, shuffle=True, workers=workers)
            plain = DataLoader(
                PlainImages(root),
                64,
                shuffle=True,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            list(loader.epoch(0)), list(plain)  # start the workers
            compare(
                f"JPEG files {width}x{height} to 224, {workers} workers",
                number,
                lambda loader=loader: sum(1 for _ in loader.epoch(1)),
                lambda plain=plain: sum(1 for _ in plain),
            )


def tensors() -> None:
    rng = np.random.default_rng(0)
    for batch, side in ((512, 32), (64, 224)):
        images = torch.from_numpy(rng.integers(0, 256, (batch, 3, side, side), dtype=np.uint8))
        draws = SampleRandom(0, 0, np.arange(batch))

        def apply(steps: tuple[Callable[..., torch.Tensor], ...], images=images, draws=draws):
            result = images
            for step in steps:
                result = step(result, draws)
            return result

        crop = (RandomResizedCrop(side), HorizontalFlip(), Normalise(IMAGENET_MEAN, IMAGENET_STD))
        compare(
            f"resized crop, flip, normalise: {batch} of {side}x{side}",
            batch,
            lambda apply=apply, crop=crop: apply(crop),
            lambda images=images: plain_crop(images),
        )
        rand = RandAugment()
        compare(
            f"RandAugment: {batch} of {side}x{side}",
            batch,
            lambda rand=rand, apply=apply: apply((rand,)),
            lambda images=images: plain_rand_augment(images),
        )
        if side == 32:
            cifar = (
                RandomShift(4),
                HorizontalFlip(),
                AutoAugmentCifar10(),
                Normalise(CIFAR10_MEAN, CIFAR10_STD),
            )
            compare(
                f"shift, flip, AutoAugment, normalise: {batch} of {side}x{side}",
                batch,
                lambda apply=apply, cifar=cifar: apply(cifar),
                lambda images=images: plain_cifar(images),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600, help="JPEG files to generate")
    parser.add_argument("--workers", type=int, default=2, help="worker processes for files")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, 1 thread, median of {ROUNDS} rounds")
    tensors()
    files(options.images, options.workers)


if __name__ == "__main__":
    main()
