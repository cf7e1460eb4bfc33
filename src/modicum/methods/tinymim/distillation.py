"""Distillation of one vision transformer into another, by whichever target.

TinyMIM, CVPR 2023, section 3. The paper's comparison of targets could not be obtained in full: the
class token, features, and queries, keys and values alone are compared here as is usual elsewhere
(BEiT, MiniLMv2, "Contrastive Learning Rivals Masked Image Modeling" for whitened features); only
`qk` and `vv` are what the authors' code has.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import ConfigError, DataError
from modicum.methods.tinymim.losses import regrouped, relation_divergence, relation_error
from modicum.methods.tinymim.networks.vit import Attention, QueryKeyValue, VisionTransformer
from modicum.methods.tinymim.taps import Layer, Tap, tap
from modicum.system.terminal import counted

Target: TypeAlias = Literal[
    "qk", "vv", "qq", "kk", "q", "k", "v", "attention", "mlp", "block", "cls"
]
"""What a student learns to have in common with a teacher: relations; queries, keys or values;
what attention or MLP add to the tokens of the layer, or these after it; or its CLS token."""
Form: TypeAlias = Literal["kl", "mse"]
"""How relations are compared: after softmax, or their logits."""

_OTHER_HEADS = (
    "the teacher's layer has {} heads, the student's {}. Let the student's last block have as many "
    "as the teacher's (last_heads), or choose a number of relation heads."
)
RELATIONS = ("qk", "vv", "qq", "kk")
_BRANCHES = ("attention", "mlp", "block", "cls")
_log = logging.getLogger("modicum")


class RelationDistillation(nn.Module):
    """The losses of a student that learns from a layer of a fixed teacher.

    Where widths differ, queries, keys, values and features pass a linear layer of the student's
    side, and the teacher's features are whitened (LayerNorm without factors). Relations need
    neither: what differs there, the number of heads, the student's layer adopts
    (`VisionTransformer(last_heads=…)`), or both sides are cut into `heads` anew.

    Args:
        teacher: What `taps.tap` takes. It is frozen and in eval mode, whatever this module is in.
        student: The same, trained.
        targets: Of what losses are made; all count alike.
        teacher_layer: Counted from 1; none: the last.
        student_layer: Alike.
        form: How relations are compared.
        heads: Relation heads of both sides; none: the layers' own.
        teacher_precision: In which the teacher computes, and has its matrices from now on; none: as
            all does.

    Raises:
        ConfigError: A target is unknown or double, there is no such layer, or the layers have other
            numbers of heads or patches.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        targets: Sequence[Target] = ("qk", "vv"),
        teacher_layer: int | None = None,
        student_layer: int | None = None,
        form: Form = "kl",
        heads: int | None = None,
        teacher_precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        known = (*RELATIONS, "q", "k", "v", *_BRANCHES)
        odd = [name for name in targets if name not in known]
        if odd or not targets or len(set(targets)) < len(targets):
            raise ConfigError(
                f"targets {'+'.join(targets) or 'none'}: expected one or several, each once, of "
                f"{', '.join(known)}."
            )
        if any(parameter.requires_grad for parameter in teacher.parameters()) or teacher.training:
            _log.info("the teacher is frozen, and stays in eval mode.")
        self.teacher, self.student = teacher.requires_grad_(False).eval(), student
        self.targets, self.form, self.heads = tuple(targets), form, heads
        self.teacher_precision = teacher_precision
        if teacher_precision is not None:  # as autocast would have them at every step
            for module in teacher.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(teacher_precision)
        self._unknown_teacher = not isinstance(teacher, VisionTransformer)
        whole = any(name in _BRANCHES for name in targets)
        self._taps: list[Tap] = [
            tap(network, _depth(network) if layer is None else layer, whole=whole)
            for network, layer in ((teacher, teacher_layer), (student, student_layer))
        ]
        widths = _width(student), _width(teacher)
        linear = [name for name in targets if name not in RELATIONS]
        self.projections = nn.ModuleDict({name: nn.Linear(*widths) for name in linear})
        if len(linear) < len(targets):
            layers = (teacher_layer or 0, student_layer or 0)
            self._check_heads(*widths, *layers)
        if isinstance(teacher, VisionTransformer) and isinstance(student, VisionTransformer):
            _check_grids(teacher, student)

    def _check_heads(self, width: int, other: int, teacher_layer: int, student_layer: int) -> None:
        """What can be said of heads before there are images."""
        if self.heads is not None:
            for each in (width, other):
                if each % self.heads:
                    raise ConfigError(
                        f"a width of {each} cannot be divided among {self.heads} relation heads."
                    )
            return
        found = [
            list(network.blocks)[layer - 1].get_submodule("attn")
            for network, layer in ((self.teacher, teacher_layer), (self.student, student_layer))
            if isinstance(network, VisionTransformer)
        ]
        heads = [module.num_heads for module in found if isinstance(module, Attention)]
        if len(heads) == 2 and heads[0] != heads[1]:
            raise ConfigError(_OTHER_HEADS.format(*heads))

    def train(self, mode: bool = True) -> RelationDistillation:
        """See `nn.Module.train`; the teacher stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, images: Tensor, student_images: Tensor | None = None, keep: Tensor | None = None,
        *, mask_teacher: bool = False, teacher: Layer | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses by target, scalars.

        Args:
            images: What the teacher sees, `(B, 3, H, W)`, normalised.
            student_images: What the student sees, of the same patches; none: the same.
            keep: Numbers of the patches the student sees, int64 `(B, kept)`; none: all.
            mask_teacher: Show the teacher these patches alone, too; otherwise what it makes of all
                is compared at the tokens that both have.
            teacher: What `look_at_teacher` gave of all patches, where it is known already.

        Raises:
            ConfigError: Tokens or heads of the two sides differ in number.
            DataError: On a CPU, an image has numbers that are not finite; its place is named.
        """
        _check_finite(images)
        if teacher is None:
            teacher = self.look_at_teacher(images, keep if mask_teacher else None)
        if keep is not None and not mask_teacher:
            teacher = _kept(teacher, keep)
        student = self._taps[1](images if student_images is None else student_images, keep)
        self._compare_shapes(teacher.qkv, student.qkv)
        return {name: self._loss(name, teacher, student) for name in self.targets}

    @torch.no_grad()
    def look_at_teacher(self, images: Tensor, keep: Tensor | None = None) -> Layer:
        """What the teacher makes of images, perhaps of some patches; see `forward`."""
        with self._teacher_autocast(images):
            if self._unknown_teacher:
                self._look_twice(images, keep)
            return self._taps[0](images, keep)

    def _teacher_autocast(self, images: Tensor) -> AbstractContextManager[Any]:
        if self.teacher_precision is None:
            return contextlib.nullcontext()
        return torch.autocast(images.device.type, self.teacher_precision)

    def _look_twice(self, images: Tensor, keep: Tensor | None) -> None:
        """A teacher that shuffles patches gives relations of nothing, and no other sign."""
        one, seen = images[:1], None if keep is None else keep[:1]
        first, second = (self._taps[0](one, seen).qkv.k.float() for _ in range(2))
        if not torch.allclose(first, second, rtol=0.01, atol=0.01 * float(first.abs().max())):
            raise ConfigError(
                f"the teacher, a {type(self.teacher).__name__}, makes of the same image another "
                f"thing each time. Does it shuffle its patches, as a ViTMAE does without a fixed "
                f"`noise`, or drop some? Give it a forward that does not."
            )
        self._unknown_teacher = False

    def _compare_shapes(self, teacher: QueryKeyValue, student: QueryKeyValue) -> None:
        (_, heads, tokens, _), (_, ours, seen, _) = teacher.q.shape, student.q.shape
        if tokens != seen:
            raise ConfigError(
                f"the teacher has {tokens} tokens, the student {seen}; they must correspond. "
                f"Choose image and patch sizes that give equal grids, and networks with as many "
                f"tokens that are no patches."
            )
        if self.heads is None and heads != ours and any(n in RELATIONS for n in self.targets):
            raise ConfigError(_OTHER_HEADS.format(heads, ours))

    def _loss(self, name: str, teacher: Layer, student: Layer) -> Tensor:
        if name in RELATIONS:
            sides = [
                (self._cut(getattr(layer.qkv, name[0])), self._cut(getattr(layer.qkv, name[1])))
                for layer in (teacher, student)
            ]
            compare = relation_divergence if self.form == "kl" else relation_error
            return compare(sides[0], sides[1])
        t, s = _features(teacher, name), _features(student, name)
        with torch.autocast(s.device.type, enabled=False):
            t = functional.layer_norm(t.float(), t.shape[-1:])
            s = self.projections[name](s.float())
            return functional.smooth_l1_loss(s, t, beta=2.0)

    def _cut(self, side: Tensor) -> Tensor:
        return side if self.heads is None else regrouped(side, self.heads)


def _check_finite(images: Tensor) -> None:
    if images.device.type != "cpu":  # it would wait for the device; `Run.step` finds such losses
        return
    bad = (~images.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{counted(len(bad), 'image')} of the batch of {len(images)} with numbers that are not "
            f"finite, the first is number {bad[0]}. Look at the files, and at what is done to them."
        )


def _features(layer: Layer, name: str) -> Tensor:
    """What a target that is no relation looks at: `(B, N, width)`, of `cls` `(B, width)`."""
    if name in ("q", "k", "v"):
        return getattr(layer.qkv, name).transpose(1, 2).flatten(2)
    features: Tensor | None = layer.block if name == "cls" else getattr(layer, name)
    if features is None:
        raise ConfigError(f"the target {name}: the network does not show this part of a layer.")
    return features[:, 0] if name == "cls" else features


def _kept(layer: Layer, keep: Tensor) -> Layer:
    """A layer at the CLS token and the kept patches."""
    first = torch.zeros(len(keep), 1, dtype=keep.dtype, device=keep.device)
    index = torch.cat([first, keep + 1], dim=1)

    def at(x: Tensor) -> Tensor:  # tokens are the last dimension but one
        place = index.view(len(index), *[1] * (x.dim() - 3), -1, 1)
        return x.gather(-2, place.expand(*x.shape[:-2], -1, x.shape[-1]))

    parts = (layer.attention, layer.mlp, layer.block)
    qkv = QueryKeyValue(*map(at, layer.qkv))
    return Layer(qkv, *(None if part is None else at(part) for part in parts))


def _depth(network: nn.Module) -> int:
    mae = getattr(network, "vit", network)
    encoder = getattr(mae, "encoder", mae)
    for name in ("blocks", "layer", "layers"):
        for module in (network, encoder):
            if isinstance(layers := getattr(module, name, None), nn.Module):
                return len(list(layers.children()))
    return 0


def _width(network: nn.Module) -> int:
    config = getattr(network, "config", None)
    of = getattr(network, "arguments", {}).get("width")
    width = of or getattr(network, "embed_dim", None) or getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"the width of a {type(network).__name__} is not known. Expected an attribute "
            f"embed_dim, as timm has it."
        )
    return width


def _check_grids(teacher: VisionTransformer, student: VisionTransformer) -> None:
    if teacher.grid != student.grid or teacher.extra_tokens != student.extra_tokens:
        raise ConfigError(
            f"the teacher has {_tokens(teacher)}, the student {_tokens(student)}; tokens must "
            f"correspond. Choose image and patch sizes that give equal grids."
        )


def _tokens(network: VisionTransformer) -> str:
    rows, columns = network.grid
    patches = f"{rows} x {columns} patches"
    return patches + (" and 2 tokens beside" if network.extra_tokens > 1 else "")
