"""Networks of files: this room's runs, MAE's and TinyMIM's files, folders of Transformers."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError, DataError
from modicum.method import load_saved
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder
from modicum.methods.tinymim.networks.vit import (
    EPS,
    VisionTransformer,
    resized_positions,
    square_grid,
)
from modicum.options import check
from modicum.system.files import read_json
from modicum.weights.foreign import fill, read_state, read_weights

DIGITS = Path(__file__).parent / "digits.safetensors"
"""What `modicum train tinymim mae --preset digits` left."""
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Of the published networks by their width: files do not say it."""
_LAST_HEADS = {"tiny": (6, 12), "small": (6, 12), "base": (12, 16)}
"""Of the authors' networks in distillation: heads of the blocks, and of the last."""
_DROPPED = ("mask_token", "decoder_", "decoder.")


def read_encoder(source: Path | str, *, heads: int | None = None) -> VisionTransformer:
    """A vision transformer from a file or folder.

    Args:
        source: A run folder or file of this method; a file of MAE (`mae_pretrain_vit_large.pth`) or
            TinyMIM (`TinyMIM-PT-B.pth`, `TinyMIM-FT-Tstar.pth`), whose decoders are left out; or a
            folder of a ViTMAE of Transformers; or `digits`, a small teacher of the built-in digits
            that comes with this module.
        heads: Of every block, where the file does not say it and its width is none of the published
            networks'.

    Raises:
        CheckpointError: It is none of these, damaged, or has other tensors.
    """
    path = Path(source)
    if path.name == "digits" and not path.exists():
        path = DIGITS
    if _is_transformers(path):
        return _of_transformers(path)
    if path.is_dir() or path.suffix == ".safetensors":
        module = load_saved(path, method="tinymim").module
        encoder = module.encoder if isinstance(module, MaskedAutoencoder) else module
        if not isinstance(encoder, VisionTransformer):
            raise CheckpointError(
                f"{path}: holds a {type(module).__name__}. Expected a run of mae, distil or "
                f"finetune."
            )
        return encoder
    content = read_weights(path)
    where, state = read_state(content) if isinstance(content, Mapping) else read_state(path)
    where = str(path) if where == "the state dict" else where
    options = content.get("args") if isinstance(content, Mapping) else None
    name = str(getattr(options, "model", "")) if isinstance(options, Namespace) else ""
    return _of_state(where, dict(state), heads, name)


def _of_state(
    where: str, state: dict[str, Tensor], heads: int | None, name: str
) -> VisionTransformer:
    """The network that MAE's names and shapes describe."""
    state = {n: tensor for n, tensor in state.items() if not n.startswith(_DROPPED)}
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    missing = [n for n in needed if n not in state]
    if missing:
        raise CheckpointError(
            f"{where}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
            f"Expected the tensors of a vision transformer with the names of MAE or timm."
        )
    if any("relative_position" in n or "gamma_" in n for n in state):
        raise CheckpointError(
            f"{where}: an encoder of segmentation, with biases and scales that a classifier does "
            f"not have. Expected one that was pre-trained or fine-tuned to classify."
        )
    blocks = [int(found[1]) for n in state if (found := re.match(r"blocks\.(\d+)\.", n))]
    width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    last_heads = None
    for size, (of_blocks, of_last) in _LAST_HEADS.items():
        if name.startswith(f"tinymim_vit_{size}"):
            heads, last_heads = heads or of_blocks, of_last
    if "dist_token" in state and "conv1x1.1.weight" in state:
        heads = heads or 12
    heads = heads or _HEADS.get(width)
    if heads is None:
        raise CheckpointError(
            f"{where}: how many heads a network of width {width} has is not in the file. Say it by "
            f"--heads."
        )
    extra = 1 + ("dist_token" in state)
    try:
        rows, columns = square_grid(state["pos_embed"].shape[1] - extra)
        network = VisionTransformer(
            width, max(blocks) + 1, heads, last_heads=last_heads, patch=patch,
            mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
            image_size=(rows * patch, columns * patch),
            channels=state["patch_embed.proj.weight"].shape[1], distillation_token=extra > 1,
            feature_width=_rows(state, "conv1x1.1.weight"), num_classes=_rows(state, "head.weight"),
            pooling="mean" if "fc_norm.weight" in state else "cls",
        )  # fmt: skip
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    fill(network, state, where)
    return network


def _rows(state: Mapping[str, Tensor], name: str) -> int | None:
    return state[name].shape[0] if name in state else None


# Folders of Transformers


def _is_transformers(path: Path) -> bool:
    config = path / "config.json"
    if not path.is_dir() or not config.is_file():
        return False
    try:
        found = read_json(config)
    except DataError:
        return False
    return isinstance(found, dict) and "model_type" in found


_RENAMED = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"layernorm\.": "norm.",
    r"(?:encoder\.layer|layers)\.(\d+)\.": r"blocks.\1.",
    r"layernorm_before\.": "norm1.",
    r"layernorm_after\.": "norm2.",
    r"attention\.(?:output\.dense|o_proj)\.": "attn.proj.",
    r"attention\.(?:attention\.)?(?:query|q_proj)\.": "attn.0.",
    r"attention\.(?:attention\.)?(?:key|k_proj)\.": "attn.1.",
    r"attention\.(?:attention\.)?(?:value|v_proj)\.": "attn.2.",
    r"(?:intermediate\.dense|mlp\.fc1)\.": "mlp.fc1.",
    r"(?:output\.dense|mlp\.fc2)\.": "mlp.fc2.",
}
"""Names of ViTMAE, before and since Transformers 5.6, and those of MAE."""


def _of_transformers(path: Path) -> VisionTransformer:
    """A ViTMAE's encoder; its LayerNorms keep the eps of its configuration."""
    config = cast("dict[str, Any]", read_json(path / "config.json"))
    if config["model_type"] != "vit_mae":
        raise CheckpointError(
            f"{path}: a model of type {config['model_type']!r}. Expected vit_mae."
        )
    names = {"hidden_size": int, "num_hidden_layers": int, "num_attention_heads": int,
             "intermediate_size": int, "image_size": int, "patch_size": int}  # fmt: skip
    usual = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
             "intermediate_size": 3072, "image_size": 224, "patch_size": 16}  # fmt: skip
    config = usual | config
    for name, kind in names.items():
        check(f"{path / 'config.json'}: {name}", config[name], kind)
    where, state = read_state(path)
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("vit.")
        if name.startswith(_DROPPED):
            continue
        for theirs, own in _RENAMED.items():
            name = re.sub(rf"(?:^|(?<=\.)){theirs}", own, name)
        ours[name] = tensor
    for name in [n for n in ours if ".attn.0." in n]:
        thirds = [ours.pop(name.replace(".attn.0.", f".attn.{part}.")) for part in range(3)]
        ours[name.replace(".attn.0.", ".attn.qkv.")] = torch.cat(thirds)
    try:
        network = VisionTransformer(
            config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
            mlp_ratio=config["intermediate_size"] / config["hidden_size"],
            image_size=config["image_size"], patch=config["patch_size"],
            eps=float(config.get("layer_norm_eps", EPS)),
        )  # fmt: skip
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    fill(network, ours, where)
    return network


# From one network into another


def start_from(network: nn.Module, source: VisionTransformer, where: str) -> None:
    """Give a network the weights of another's encoder; what that does not have starts anew.

    Position embeddings are resized to the network's grid. The final LayerNorm `norm` is left out
    where the network has none, as it is with mean pooling.

    Args:
        network: A classifier, or an encoder of segmentation.
        source: Where from.
        where: That, for messages.

    Raises:
        CheckpointError: Widths or depths differ.
    """
    assert isinstance(network, VisionTransformer)
    own, state = network.state_dict(), dict(source.state_dict())
    extra = min(source.extra_tokens, network.extra_tokens)
    if source.arguments["width"] == network.arguments["width"]:
        positions = state["pos_embed"][:, -source.grid[0] * source.grid[1] :]
        first = state["pos_embed"][:, :extra]
        if extra < network.extra_tokens:  # a second token starts where the first does
            first = first.expand(-1, network.extra_tokens, -1)
        positions = resized_positions(positions, source.grid, network.grid, 0)
        state["pos_embed"] = torch.cat([first, positions], dim=1)
    new = ("head.", "head_dist.", "fc_norm.", "norm.", "conv1x1.", "dist_token", "fpn")
    kept = {n: own[n] for n in own if "gamma_" in n or "relative_position" in n}
    state = {n: tensor for n, tensor in state.items() if n in own or not n.startswith(new)}
    hint = "Choose the model, width, depth and patch it was trained with."
    fill(network, kept | state, where, fresh=new, hint=hint)
