"""Distillation of whole networks against the authors' code, by every target, from any network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modicum.engine.optimizers import parameter_groups
from modicum.engine.schedules import warmup_cosine
from modicum.errors import ConfigError, DataError
from modicum.methods.tinymim.distillation import RelationDistillation
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.methods.tinymim.recipes.distil import Config, build_student
from modicum.methods.tinymim.taps import tap

GOLDEN = Path(__file__).parents[2] / "golden" / "tinymim"
CASE: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())["distill"]


def vit(side: dict[str, Any], **parts: Any) -> VisionTransformer:
    shape = {"image_size": CASE["img"], "patch": CASE["patch"], "mlp_ratio": CASE["mlp_ratio"]}
    return VisionTransformer(side["dim"], side["depth"], side["heads"], **shape | parts)


def drawn(seed: int) -> Tensor:
    shape = (CASE["batch"], 3, CASE["img"], CASE["img"])
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def test_six_steps_are_those_of_the_authors() -> None:
    golden = load_file(GOLDEN / "distill.safetensors")
    teacher, student = vit(CASE["teacher"]), vit(CASE["student"], last_heads=6)
    for network, side in ((teacher, "t."), (student, "s.")):
        network.load_state_dict({n[2:]: value for n, value in golden.items() if n.startswith(side)})
    distillation = RelationDistillation(
        teacher, student, teacher_layer=CASE["teacher"]["intermediate"], student_layer=12
    ).train()
    rule = CASE["optimizer"]
    groups = parameter_groups(student, rule["weight_decay"])
    for found, expected in zip(sorted(groups, key=lambda g: g["weight_decay"]), CASE["groups"],
                               strict=True):  # fmt: skip
        assert found["weight_decay"] == expected["weight_decay"]
        assert sum(p.numel() for p in found["params"]) == expected["numel"]
        assert len(found["params"]) == expected["n"]
    optimizer = torch.optim.AdamW(groups, lr=rule["lr"], betas=tuple(rule["betas"]))
    for step, (qk, vv, rate) in enumerate(CASE["losses_qk_vv_lr"]):
        # 3 steps an epoch; the rate of masked autoencoders is this rule's of the step before
        found_rate = warmup_cosine(step - 1, 30, peak=rule["lr"], warmup=6)
        assert found_rate == pytest.approx(rate, abs=1e-12)
        images = drawn(CASE["seed"] + 10 + step)
        seen = images + 0.1 * drawn(CASE["seed"] + 50 + step)
        if step == 0:
            torch.testing.assert_close(images, golden["x_teacher0"])
            torch.testing.assert_close(seen, golden["x_student0"])
        losses = distillation(images, seen)
        tolerance = 1e-5 if step == 0 else 2e-4
        assert float(losses["qk"].detach()) == pytest.approx(qk, abs=tolerance)
        assert float(losses["vv"].detach()) == pytest.approx(vv, abs=tolerance)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        if step == 0:
            gradients = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
            norms = {n[10:]: v for n, v in golden.items() if n.startswith("gradnorm0.")}
            assert gradients.keys() == norms.keys()
            for name, norm in norms.items():
                torch.testing.assert_close(gradients[name].norm(), norm, rtol=1e-4, atol=1e-5)
            for name in (n[6:] for n in golden if n.startswith("grad0.")):
                torch.testing.assert_close(gradients[name], golden[f"grad0.{name}"],
                                           rtol=0, atol=1e-5)  # fmt: skip
            without = [n for n, p in student.named_parameters()
                       if p.requires_grad and p.grad is None]  # fmt: skip
            assert without == CASE["params_without_grad"]
        optimizer.step()
    state = student.state_dict()
    for name in (n[6:] for n in golden if n.startswith("final.")):
        torch.testing.assert_close(state[name], golden[f"final.{name}"], rtol=0, atol=1e-4)


# Targets

TARGETS = ("qk", "vv", "qq", "kk", "q", "k", "v", "attention", "mlp", "block", "cls")


def small(width: int = 24, depth: int = 3, heads: int = 3, **parts: Any) -> VisionTransformer:
    torch.manual_seed(width + depth)
    return VisionTransformer(width, depth, heads, **{"image_size": 16, "patch": 4} | parts)


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["kl", "mse"])
def test_every_target_trains_the_student_and_nothing_else(target: Any, form: Any) -> None:
    teacher, student = small(48, 4, 6), small(last_heads=6)
    distillation = RelationDistillation(
        teacher, student, targets=(target,), teacher_layer=3, form=form
    ).train()
    loss = distillation(IMAGES)[target]
    loss.backward()
    assert loss.isfinite()
    assert float(loss.detach()) > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training
    assert student.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert len(distillation.projections) == (target not in ("qk", "vv", "qq", "kk"))


def test_a_network_has_no_distance_to_itself() -> None:
    network = small()
    found = RelationDistillation(network, network, targets=("qk", "vv", "qq", "kk"))(IMAGES)
    assert max(map(float, found.values())) < 1e-6


def test_masked_students_are_compared_at_what_they_see() -> None:
    teacher, student = small(48, 4, 6), small(last_heads=6)
    distillation = RelationDistillation(teacher, student, targets=("qk", "block"))
    keep = torch.tensor([[0, 5, 9], [15, 2, 3]])
    whole = distillation(IMAGES, keep=torch.arange(16).expand(2, -1))
    plain = distillation(IMAGES)
    for name, loss in whole.items():
        torch.testing.assert_close(loss, plain[name])
    some = distillation(IMAGES, keep=keep)
    both = distillation(IMAGES, keep=keep, mask_teacher=True)
    for losses in (some, both):
        assert all(loss.isfinite() for loss in losses.values())
    assert not torch.allclose(some["block"], both["block"])


def test_relation_heads_stand_for_other_numbers_of_heads() -> None:
    found = RelationDistillation(small(48, 4, 6), small(), heads=12)(IMAGES)
    assert found["qk"].isfinite()


@pytest.mark.parametrize(
    ("problem", "teacher", "student", "options"),
    [
        (r"layer 5: .* has layers 1 to 4", {}, {}, {"teacher_layer": 5}),
        (r"layer 0: ", {}, {}, {"student_layer": 0}),
        (r"targets xx: expected one or several", {}, {}, {"targets": ("xx",)}),
        (r"targets qk\+qk: .* each once", {}, {}, {"targets": ("qk", "qk")}),
        (r"6 heads, the student's 3\. .*last_heads", {}, {"last_heads": None}, {}),
        (r"24 cannot be divided among 5 relation heads", {}, {}, {"heads": 5}),
        (r"4 x 4 patches, the student 2 x 2 patches", {}, {"patch": 8}, {}),
        (r"patches and 2 tokens beside", {}, {"distillation_token": True}, {}),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    problem: str, teacher: dict[str, Any], student: dict[str, Any], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=problem):
        RelationDistillation(
            small(48, 4, 6, **teacher), small(**{"last_heads": 6} | student), **options
        )


# Other people's networks


class TimmLike(nn.Module):
    """The parts of a timm network that are looked at, around one of ours."""

    class _Attention(nn.Module):
        def __init__(self, ours: Any) -> None:
            super().__init__()
            self.qkv, self.proj, self.num_heads = ours.qkv, ours.proj, ours.num_heads
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            return self.proj(((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v)
                             .transpose(1, 2).flatten(2))  # fmt: skip

    def __init__(self, ours: VisionTransformer) -> None:
        super().__init__()
        self.embed_dim, self.ours, self.blocks = ours.arguments["width"], ours, ours.blocks
        self.calls = 0
        for block in self.blocks:
            block.attn = TimmLike._Attention(block.attn)

    def forward(self, images: Tensor) -> Tensor:
        x = self.ours.embed(images)
        for block in self.blocks:
            self.calls += 1
            x = block(x)
        return x


def test_networks_like_those_of_timm_are_teachers_and_students() -> None:
    ours = [small(48, 4, 6), small(last_heads=6)]
    targets: Any = ("qk", "vv", "q", "mlp", "block")
    torch.manual_seed(1)
    expected = RelationDistillation(ours[0], ours[1], targets=targets, teacher_layer=2)
    losses = expected(IMAGES)
    theirs = [TimmLike(network) for network in ours]
    again = RelationDistillation(theirs[0], theirs[1], targets=targets, teacher_layer=2)
    again.projections.load_state_dict(expected.projections.state_dict())
    found = again(IMAGES)
    for name, loss in losses.items():
        torch.testing.assert_close(found[name], loss)
    theirs[0].calls = 0
    again(IMAGES)
    assert theirs[0].calls == 2  # and no further
    with pytest.raises(ConfigError, match="cannot be shown some patches only"):
        again(IMAGES, keep=torch.tensor([[0], [1]]), mask_teacher=True)


def test_a_vit_mae_of_transformers_is_a_teacher_in_order() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=6, intermediate_size=96,
        image_size=16, patch_size=4, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = transformers.ViTMAEForPreTraining(config)
    for teacher in (whole.vit, whole):
        distillation = RelationDistillation(teacher, small(last_heads=6), teacher_layer=3)
        first, second = distillation(IMAGES), distillation(IMAGES)
        for name, loss in first.items():
            torch.testing.assert_close(loss, second[name])  # shuffled they would differ
    assert config.mask_ratio == 0.75


def test_a_teacher_that_shuffles_its_patches_is_noticed() -> None:
    class Shuffling(TimmLike):
        def forward(self, images: Tensor) -> Tensor:
            order = torch.randperm(16)
            x = self.ours.embed(images)
            x = torch.cat([x[:, :1], x[:, 1:][:, order]], dim=1)
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    distillation = RelationDistillation(Shuffling(small(48, 4, 6)), small(last_heads=6))
    with pytest.raises(ConfigError, match=r"a Shuffling, makes of the same image another thing"):
        distillation(IMAGES)


def test_the_teacher_alone_may_compute_in_half_precision() -> None:
    teacher, student = small(48, 4, 6), small(last_heads=6)
    whole = RelationDistillation(teacher, student)(IMAGES)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = tap(teacher, 4)(IMAGES, None).qkv
    half = RelationDistillation(teacher, student, teacher_precision=torch.bfloat16)(IMAGES)
    for name, loss in whole.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], loss, rtol=0.02, atol=1e-3)
    again = RelationDistillation(teacher, student, teacher_precision=torch.bfloat16)
    found = again.look_at_teacher(IMAGES).qkv
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert teacher.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert teacher.blocks[0].norm1.weight.dtype == torch.float32


def test_an_image_that_is_not_finite_is_named() -> None:
    images = IMAGES.clone()
    images[1, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match=r"1 image of the batch of 2 .* not finite, .* number 1"):
        RelationDistillation(small(48, 4, 6), small(last_heads=6))(images)


def test_a_teacher_is_frozen_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    teacher = small(48, 4, 6).train()
    distillation = RelationDistillation(teacher, small(last_heads=6)).train()
    assert not teacher.training
    assert distillation.student.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    again = RelationDistillation(teacher, small(last_heads=6))
    assert caplog.text.count("the teacher is frozen, and stays in eval mode") == 1
    assert again.teacher is teacher


def test_what_cannot_be_looked_into_is_told() -> None:
    with pytest.raises(ConfigError, match=r"a Sequential cannot be looked into\. Expected"):
        RelationDistillation(nn.Sequential(nn.Linear(3, 3)), small())


def test_a_student_has_the_teacher_s_patches_where_its_own_would_not_fit() -> None:
    teacher = VisionTransformer(24, 2, 3, image_size=42, patch=14)  # an eighth of 42 is 5
    student = build_student(Config(), teacher, size=42, channels=3)
    assert student.grid == teacher.grid
