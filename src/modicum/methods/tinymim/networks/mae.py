"""Masked autoencoders: a vision transformer that restores the patches it does not see.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022. Parameters of the decoder
have MAE's names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modicum.engine.random import SampleRandom
from modicum.methods.tinymim.networks.vit import (
    Block,
    VisionTransformer,
    sine_cosine_positions,
)


def kept_patches(random: SampleRandom, patches: int, mask_ratio: float) -> Tensor:
    """Numbers of the patches that are seen of each image, in random order: int64 `(B, kept)`.

    Args:
        random: Of the images.
        patches: Of each image.
        mask_ratio: Share that is not seen; at least one is.
    """
    kept = max(1, int(patches * (1 - mask_ratio)))
    order = torch.from_numpy(random.uniform(patches, "mask")).argsort(dim=1, stable=True)
    return order[:, :kept]


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Images `(B, C, H, W)` as patches row by row, `(B, N, patch * patch * C)`, channels last."""
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # B C h p w q
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def images_of(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patches_of`, of a grid of (rows, columns) patches."""
    cut = patches.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # B h w p q C
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class MaskedDecoder(nn.Module):
    """Restores the pixels of all patches from the tokens of those that are seen.

    Args:
        encoder: Whose tokens they are: their width, grid and extra tokens are taken from it.
        width: Of the decoder's tokens.
        depth: Blocks.
        heads: Of every block.
    """

    def __init__(
        self, encoder: VisionTransformer, width: int = 512, depth: int = 8, heads: int = 16
    ) -> None:
        super().__init__()
        given: dict[str, Any] = encoder.arguments
        self.patch, self.extra_tokens = given["patch"], encoder.extra_tokens
        self.decoder_embed = nn.Linear(given["width"], width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        positions = sine_cosine_positions(width, encoder.grid, encoder.extra_tokens)
        self.decoder_pos_embed = nn.Parameter(positions[None], requires_grad=False)
        self.decoder_blocks = nn.Sequential(
            *(Block(width, heads, eps=given["eps"]) for _ in range(depth))
        )
        self.decoder_norm = nn.LayerNorm(width, eps=given["eps"])
        self.decoder_pred = nn.Linear(width, self.patch**2 * given["channels"])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Patches as in `patches_of`, `(B, N, patch * patch * C)`.

        Args:
            tokens: Normalised, of the seen patches, CLS first, `(B, extra + kept, width)`.
            keep: Numbers of these patches, int64 `(B, kept)`.
        """
        x = self.decoder_embed(tokens)
        extra, seen = x[:, : self.extra_tokens], x[:, self.extra_tokens :]
        patches = self.decoder_pos_embed.shape[1] - self.extra_tokens
        whole = self.mask_token.to(x.dtype).expand(len(x), patches, -1)
        whole = whole.scatter(1, keep[:, :, None].expand_as(seen), seen)
        x = torch.cat([extra, whole], dim=1) + self.decoder_pos_embed
        x = self.decoder_norm(self.decoder_blocks(x))
        return self.decoder_pred(x)[:, self.extra_tokens :]


class MaskedAutoencoder(nn.Module):
    """An encoder without classes, and a decoder.

    Args:
        encoder: Arguments of `VisionTransformer`.
        decoder_width: Of the decoder's tokens.
        decoder_depth: Its blocks.
        decoder_heads: Of every block of it.
        normalise: Whether every patch is restored with its own mean and variance taken away.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = VisionTransformer(**encoder)
        self.decoder = MaskedDecoder(self.encoder, decoder_width, decoder_depth, decoder_heads)
        self.normalise = normalise
        self.arguments: dict[str, Any] = {
            "encoder": self.encoder.arguments, "decoder_width": decoder_width,
            "decoder_depth": decoder_depth, "decoder_heads": decoder_heads,
            "normalise": normalise,
        }  # fmt: skip

    def forward(self, images: Tensor, keep: Tensor) -> Tensor:
        """Patches `(B, N, patch * patch * C)` of images `(B, C, H, W)`, restored from those of
        numbers `keep`, int64 `(B, kept)`.
        """
        encoder = self.encoder
        return self.decoder(encoder.norm(encoder.blocks(encoder.embed(images, keep))), keep)

    def loss(self, images: Tensor, keep: Tensor) -> Tensor:
        """Mean squared error of the pixels that are not seen, a scalar.

        Args:
            images: `(B, C, H, W)`, normalised.
            keep: Numbers of the patches that are seen, int64 `(B, kept)`.
        """
        restored = self(images, keep).float()
        return reconstruction_error(restored, images, keep, self.normalise)

    def reconstruction(self, images: Tensor, keep: Tensor) -> Tensor:
        """Images of which the unseen patches are restored, `(B, C, H, W)`, of normalised images.

        A decoder of normalised patches knows no mean and variance; the true ones are put back.
        """
        patch, true = self.decoder.patch, patches_of(images, self.decoder.patch)
        restored = self(images, keep).float()
        if self.normalise:
            variance, mean = torch.var_mean(true, dim=2, keepdim=True)
            restored = restored * (variance + 1e-6).sqrt() + mean
        index = keep[:, :, None].expand(-1, -1, true.shape[2])
        return images_of(restored.scatter(1, index, true.gather(1, index)), patch,
                         self.encoder.grid)  # fmt: skip


def reconstruction_error(restored: Tensor, images: Tensor, keep: Tensor, normalise: bool) -> Tensor:
    """Mean squared error of restored patches `(B, N, patch * patch * C)` that are not in `keep`."""
    patch = round((restored.shape[2] / images.shape[1]) ** 0.5)
    true = patches_of(images.float(), patch)
    if normalise:
        variance, mean = torch.var_mean(true, dim=2, keepdim=True)
        true = (true - mean) / (variance + 1e-6).sqrt()
    unseen = torch.ones(true.shape[:2], device=true.device).scatter_(1, keep, 0.0)
    error = (restored.float() - true).square().mean(2)
    return (error * unseen).sum() / unseen.sum().clamp(min=1)
