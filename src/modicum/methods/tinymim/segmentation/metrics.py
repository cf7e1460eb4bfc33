"""Semantic segmentation's scores, of counts over a whole set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modicum.methods.tinymim.segmentation.pair_sets import IGNORED


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many pixels of each class are predicted as each: int64 (classes, classes).

    Rows are the true classes. Matrices of images, batches and processes are added up.

    Args:
        predicted: Labels, any integers, of any shape.
        labels: The true ones, of the same shape and on the same device; pixels that are `IGNORED`
            are not counted.
        classes: Number of classes.

    Raises:
        ValueError: The shapes differ, or a label is no class.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"found shapes {tuple(predicted.shape)} and {tuple(labels.shape)}")
    counted = labels != IGNORED
    true, guess = labels[counted].long(), predicted[counted].long()
    for name, found in (("labels", true), ("predicted", guess)):
        if len(found) and not 0 <= int(found.min()) <= int(found.max()) < classes:
            low, high = int(found.min()), int(found.max())
            raise ValueError(f"{name}: found {low} to {high}, expected 0 to {classes - 1}")
    return torch.bincount(true * classes + guess, minlength=classes**2).view(classes, classes)


class SegmentationScores(NamedTuple):
    """In percent."""

    mean_iou: float
    """mIoU: the mean of `iou` over the classes that have one."""
    mean_accuracy: float
    """mAcc: the mean of `accuracy` over the classes that have one."""
    pixel_accuracy: float
    """aAcc: the share of all labelled pixels that are predicted right."""
    iou: list[float]
    """Of each class, intersection over union of its true and its predicted pixels in the whole
    set; nan for one that neither is labelled nor predicted anywhere. One that is predicted but
    never labelled has 0, and counts."""
    accuracy: list[float]
    """Of each class, the share of its pixels that are predicted right; nan for one that is never
    labelled."""


def segmentation_scores(confusion: Tensor) -> SegmentationScores:
    """Scores of a confusion matrix, int64 (classes, classes), summed over the whole set.

    The conventions are those of the published ADE20K numbers. Where nothing is labelled, all
    scores are nan.
    """
    counts = confusion.cpu().double()
    right, true = counts.diagonal(), counts.sum(1)
    iou = 100 * right / (true + counts.sum(0) - right)
    accuracy = 100 * right / true
    return SegmentationScores(
        float(iou.nanmean()), float(accuracy.nanmean()), float(100 * right.sum() / true.sum()),
        iou.tolist(), accuracy.tolist(),
    )  # fmt: skip
