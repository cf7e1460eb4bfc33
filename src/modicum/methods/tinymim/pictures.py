"""Pictures: what an autoencoder restores, and which patches a token looks at."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from modicum.images import contact_sheet
from modicum.methods.tinymim.losses import Relation, relations
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder, images_of, patches_of
from modicum.methods.tinymim.networks.vit import QueryKeyValue
from modicum.methods.tinymim.recipes.common import Pipeline

_GAP = 4
_HEAT = np.array([[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]])
"""Colours from little to much."""


def png_of(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture `(height, width, 3)` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def bytes_of(image: Tensor, pipeline: Pipeline) -> npt.NDArray[np.uint8]:
    """A normalised image `(C, H, W)` as it looks, `(H, W, 3)`."""
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (pipeline.mean, pipeline.std))
    pixels = ((image.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


def reconstruction_strip(
    network: MaskedAutoencoder, image: Tensor, keep: Tensor, pipeline: Pipeline
) -> npt.NDArray[np.uint8]:
    """An image, what is seen of it, and what an autoencoder makes of that, side by side.

    Args:
        network: In eval mode.
        image: `(1, C, H, W)`, normalised, on its device.
        keep: Numbers of the patches that are seen, int64 `(1, kept)`.
        pipeline: How it was normalised.
    """
    patch, grid = network.decoder.patch, network.encoder.grid
    with torch.no_grad():
        restored = network.reconstruction(image, keep)
    true = patches_of(image, patch)
    index = keep[:, :, None].expand(-1, -1, true.shape[2])
    seen = images_of(torch.zeros_like(true).scatter(1, index, true.gather(1, index)), patch, grid)
    parts = [bytes_of(each[0], pipeline) for each in (image, seen, restored)]
    gap = np.full((parts[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def relation_maps(
    image: Tensor, token: int, sides: Mapping[str, QueryKeyValue], pipeline: Pipeline,
    kinds: tuple[Relation, ...] = ("qk", "vv"),
) -> bytes:  # fmt: skip
    """What a patch's token has to do with every other, by network and relation: a PNG file.

    Args:
        image: `(C, H, W)`, normalised.
        token: Number of the patch, row by row from 0; it has a frame.
        sides: By name, what `taps.tap` gives of `image` alone, of networks with the CLS token
            first; the mean over heads is drawn.
        pipeline: How the image was normalised.
        kinds: Relations.
    """
    photo = bytes_of(image, pipeline)
    pictures, titles = [photo], ["image"]
    for name, qkv in sides.items():
        for kind, relation in relations(*qkv, kinds=kinds).items():
            row = relation[0].mean(0)[token + 1, 1:].cpu()
            side = round(len(row) ** 0.5 * (image.shape[1] / image.shape[2]) ** 0.5)
            heat = functional.interpolate(
                (row / row.max().clamp(min=1e-12)).view(1, 1, side, -1), photo.shape[:2]
            )
            pictures.append(_coloured(heat[0, 0].numpy(), side, token))
            titles.append(f"{name}\n{kind}")
    return contact_sheet(pictures, titles, columns=len(pictures), cell=160)


def _coloured(heat: npt.NDArray[np.float32], rows: int, token: int) -> npt.NDArray[np.uint8]:
    """Shares from 0 to 1 in colours, with a frame around one of `rows` times as many patches."""
    levels = np.linspace(0, 1, len(_HEAT))
    picture = np.stack([np.interp(heat, levels, _HEAT[:, k]) for k in range(3)], axis=2)
    size = heat.shape[0] // rows
    columns = heat.shape[1] // size
    top, left = (token // columns) * size, (token % columns) * size
    frame = np.zeros(heat.shape, bool)
    frame[top : top + size, left : left + size] = True
    inside = max(1, size // 8)
    frame[top + inside : top + size - inside, left + inside : left + size - inside] = False
    picture[frame] = 255
    return picture.round().astype(np.uint8)
