"""Networks from files of MAE, TinyMIM and Transformers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modicum.errors import CheckpointError
from modicum.methods.tinymim.checkpoints import read_encoder, start_from
from modicum.methods.tinymim.distillation import RelationDistillation
from modicum.methods.tinymim.networks.builders import vit_base, vit_tiny, vit_tiny_star
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder
from modicum.methods.tinymim.networks.upernet import SegmentationEncoder
from modicum.methods.tinymim.networks.vit import VisionTransformer

SMALL: dict[str, Any] = {"depth": 2, "image_size": 32, "patch": 8}


def same(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_file_of_mae_is_an_encoder_without_its_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mae = MaskedAutoencoder(vit_tiny(**SMALL).arguments, decoder_width=16, decoder_depth=1,
                            decoder_heads=2)  # fmt: skip
    state = dict(mae.encoder.state_dict()) | dict(mae.decoder.state_dict())
    path = tmp_path / "mae_visualize_vit.pth"
    torch.save({"model": state}, path)
    found = read_encoder(path)
    same(found, mae.encoder)
    assert (found.arguments["heads"], found.arguments["patch"]) == (3, 8)
    assert found.grid == (4, 4)


@pytest.mark.parametrize(("build", "name", "heads"), [
    (vit_tiny, "tinymim_vit_tiny_patch16", (6, 12)),
    (vit_base, "tinymim_vit_base_patch16", (12, 16)),
])  # fmt: skip
def test_a_file_of_tinymim_says_how_many_heads_its_last_block_has(
    tmp_path: Path, build: Any, name: str, heads: tuple[int, int]
) -> None:
    network = build(**SMALL)
    path = tmp_path / "TinyMIM-PT.pth"
    content = {"model": network.state_dict(), "optimizer": {}, "epoch": 299, "scaler": {}}
    torch.save(content | {"args": argparse.Namespace(model=name)}, path)
    found = read_encoder(path)
    same(found, network)
    assert tuple(block.attn.num_heads for block in found.blocks) == heads  # type: ignore[union-attr]
    student = VisionTransformer(48, 2, 3, image_size=32, patch=8, last_heads=heads[1])
    RelationDistillation(found, student)(torch.zeros(1, 3, 32, 32))


def test_the_tiny_star_has_two_classifiers(tmp_path: Path) -> None:
    network = vit_tiny_star(num_classes=5, **SMALL).eval()
    nn.init.normal_(network.head.weight)  # type: ignore[arg-type]
    path = tmp_path / "TinyMIM-FT-Tstar.pth"
    torch.save({"model": network.state_dict()}, path)
    found = read_encoder(path).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(images), network(images))
    assert found.arguments["heads"] == 12


@pytest.mark.parametrize("newer", [False, True], ids=["before 5.6", "since 5.6"])
def test_a_folder_of_transformers_is_an_encoder(tmp_path: Path, newer: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    config = transformers.ViTMAEConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=6, intermediate_size=48,
        image_size=16, patch_size=4, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=8, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    theirs.save_pretrained(tmp_path)
    if newer:
        save_file(
            {n: p.clone() for n, p in theirs.state_dict().items()}, tmp_path / "model.safetensors"
        )
    found = read_encoder(tmp_path).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        noise = torch.arange(16.0).expand(2, -1)
        config.mask_ratio = 0.0
        expected = theirs.vit(images, noise=noise).last_hidden_state
        torch.testing.assert_close(found(images), expected, rtol=0, atol=1e-5)
    assert found.arguments["eps"] == 1e-6


def test_what_is_no_vision_transformer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"cls_token, pos_embed, .* are missing"):
        read_encoder(path)
    odd = VisionTransformer(40, 1, 4, image_size=16, patch=8)
    torch.save(odd.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"network of width 40 has is not in the file.*heads"):
        read_encoder(path)
    assert read_encoder(path, heads=4).arguments["heads"] == 4
    encoder = SegmentationEncoder(24, 4, 3, image_size=32)
    torch.save(encoder.state_dict(), path)
    with pytest.raises(CheckpointError, match="an encoder of segmentation"):
        read_encoder(path)
    state = dict(vit_tiny(**SMALL).state_dict())
    del state["blocks.1.norm2.bias"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(blocks\.1\.norm2\.bias\)"):
        read_encoder(path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"of type 'bert'\. Expected vit_mae"):
        read_encoder(tmp_path)


def test_a_classifier_starts_from_an_encoder_of_another_size() -> None:
    torch.manual_seed(0)
    source = vit_tiny(last_heads=12, **SMALL)
    classifier = vit_tiny(num_classes=4, train_positions=True, **SMALL | {"image_size": 48})
    head = classifier.head.weight.clone()
    start_from(classifier, source, "the teacher")
    assert torch.equal(classifier.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)
    assert torch.equal(classifier.head.weight, head)
    assert torch.equal(classifier.pos_embed[:, 0], source.pos_embed[:, 0])
    assert classifier.pos_embed.shape[1] == 37
    with pytest.raises(CheckpointError, match=r"the teacher: .*of another network.*Choose the"):
        start_from(vit_base(num_classes=4, **SMALL), source, "the teacher")


def test_an_encoder_of_segmentation_starts_from_both_kinds() -> None:
    torch.manual_seed(0)
    deep = VisionTransformer(24, 4, 3, image_size=32, patch=16)
    encoder = SegmentationEncoder(24, 4, 3, image_size=64)
    start_from(encoder, deep, "it")
    assert torch.equal(encoder.blocks[3].mlp.fc2.weight, deep.blocks[3].mlp.fc2.weight)
    assert encoder.blocks[0].gamma_1.eq(1).all()
    tuned = VisionTransformer(24, 4, 3, image_size=64, patch=16, num_classes=3)
    start_from(encoder, tuned, "it")
    assert torch.equal(encoder.pos_embed, tuned.pos_embed)
