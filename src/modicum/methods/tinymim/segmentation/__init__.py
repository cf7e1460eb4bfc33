"""Semantic segmentation: pairs of images and masks, crops, windows, measures, pictures."""
