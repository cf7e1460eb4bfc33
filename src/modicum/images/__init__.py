"""Image folders, decoding, batched transforms.

    train_set = open_images("photos", "train")
    recipe = (RandomResizedCrop(224), HorizontalFlip(), Normalise(IMAGENET_MEAN, IMAGENET_STD))
    loader = Loader(train_set, batch_size=512, transform=recipe, shuffle=True, drop_last=True)
    for batch in loader.epoch(0):
        batch.image, batch.label, batch.index

The first transform may take the crop of every image (a `Crop`); the crop is then read as the file
is decoded. All steps work on whole batches, and their random numbers belong to samples.
"""

from modicum.data.folders import Split
from modicum.engine.random import SampleRandom
from modicum.images.auto_augment import AutoAugmentCifar10
from modicum.images.check import CheckReport, check_images, fingerprint
from modicum.images.decode import decode_crop, decode_image, read_crop
from modicum.images.image_set import BadImage, FileImages, ImageSet, MemoryImages
from modicum.images.loader import Batch, Loader
from modicum.images.sheet import contact_sheet
from modicum.images.sources import available_splits, has_splits, open_images
from modicum.images.survey import survey
from modicum.images.transforms import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Crop,
    HorizontalFlip,
    Normalise,
    RandomResizedCrop,
    RandomShift,
    ResizeCentreCrop,
    Step,
)

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AutoAugmentCifar10",
    "BadImage",
    "Batch",
    "CheckReport",
    "Crop",
    "FileImages",
    "HorizontalFlip",
    "ImageSet",
    "Loader",
    "MemoryImages",
    "Normalise",
    "RandomResizedCrop",
    "RandomShift",
    "ResizeCentreCrop",
    "SampleRandom",
    "Split",
    "Step",
    "available_splits",
    "check_images",
    "contact_sheet",
    "decode_crop",
    "decode_image",
    "fingerprint",
    "has_splits",
    "open_images",
    "read_crop",
    "survey",
]
