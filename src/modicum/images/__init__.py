"""Images: folders and published sets, decoding, views, transforms of whole batches.

    train_set = open_images("photos", "train")
    recipe = (RandomResizedCrop(224), HorizontalFlip(), Normalise(IMAGENET_MEAN, IMAGENET_STD))
    loader = Loader(train_set, batch_size=512, transform=recipe, shuffle=True, drop_last=True)
    for batch in loader.epoch(0):
        batch.image, batch.label, batch.index

A transform may begin with a `Geometry`, which is then taken as a file is decoded. All steps work on
whole batches, and their random numbers belong to samples. What has boxes, masks or cameras beside
its images draws the `View` itself and moves them all:

    view = ScaleJitter(1024, flip=0.5).view(sizes, random)
    view.images(images), view.label_maps(masks), view.take(image_of_box).boxes(boxes)
"""

from modicum.data.folders import Split
from modicum.engine.random import SampleRandom
from modicum.images.check import check_images, fingerprint
from modicum.images.decode import Picture, decode_image, decode_label_map, read_crop
from modicum.images.distortions import Distortions
from modicum.images.geometry import (
    Geometry,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    RandomShift,
    Resample,
    Resize,
    ResizeCentreCrop,
    ScaleJitter,
    View,
    resize,
)
from modicum.images.image_set import FileImages, ImageSet, MemoryImages
from modicum.images.loader import Batch, Loader, Step
from modicum.images.mix import Mix, soft_targets
from modicum.images.pipeline import CropPipeline, StatedPipeline, usual_size
from modicum.images.pixels import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourJitter,
    Normalise,
    RandomErasing,
)
from modicum.images.policies import AutoAugmentCifar10, RandAugment
from modicum.images.sheet import contact_sheet
from modicum.images.sources import DATASETS, available_splits, has_splits, open_images
from modicum.images.survey import survey

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "DATASETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AutoAugmentCifar10",
    "Batch",
    "ColourJitter",
    "CropPipeline",
    "Distortions",
    "FileImages",
    "Geometry",
    "HorizontalFlip",
    "ImageSet",
    "Loader",
    "MemoryImages",
    "Mix",
    "Normalise",
    "Picture",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomShift",
    "Resample",
    "Resize",
    "ResizeCentreCrop",
    "SampleRandom",
    "ScaleJitter",
    "Split",
    "StatedPipeline",
    "Step",
    "View",
    "available_splits",
    "check_images",
    "contact_sheet",
    "decode_image",
    "decode_label_map",
    "fingerprint",
    "has_splits",
    "open_images",
    "read_crop",
    "resize",
    "soft_targets",
    "survey",
    "usual_size",
]
