"""Distillation without labels: a small network imitates relations inside a big one.

TinyMIM, CVPR 2023. Teacher and student see the same crop; the student's has other colours. Of the
student's last block only queries, keys and values are trained; what comes after them has no
gradient, as in the authors' code, and is exported as it was initialised (`reinit_last`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from modicum import images
from modicum.data.sample_set import describe
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run
from modicum.errors import ConfigError
from modicum.methods.tinymim.checkpoints import read_encoder
from modicum.methods.tinymim.distillation import RELATIONS, Form, RelationDistillation
from modicum.methods.tinymim.networks.mae import (
    MaskedDecoder,
    kept_patches,
    reconstruction_error,
)
from modicum.methods.tinymim.networks.vit import Block, QueryKeyValue, VisionTransformer
from modicum.methods.tinymim.recipes.common import (
    Augmentation,
    Fitting,
    Photographs,
    Pipeline,
    Shape,
    adamw,
    notes_of,
)
from modicum.methods.tinymim.taps import Layer
from modicum.options import FLAT, Ge, Interval, Options, replace
from modicum.system.progress import Progress


@dataclass(frozen=True)
class Imitation(Options):
    """What of the teacher is imitated, and how."""

    target: str = "qk+vv"
    """Relations qk, vv, qq, kk; queries, keys or values: q, k, v; what attention or MLP add to the
    layer's tokens, or these after it: attention, mlp, block; the class token: cls. Several are
    joined by +."""
    form: Form = "kl"
    """Relations after softmax by divergence (kl), or their logits by squared difference (mse)."""
    teacher_layer: Annotated[int, Ge(1)] | None = None
    """Layer of the teacher, from 1; none: 18 of 24 as the authors choose it, else the last."""
    student_layer: Annotated[int, Ge(1)] | None = None
    """Layer of the student, from 1; none: the last, which adopts the teacher's number of heads."""
    relation_heads: Annotated[int, Ge(1)] | None = None
    """Cut both layers' heads anew into so many; none: the student's layer has the teacher's."""
    mask_ratio: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the patches that the student does not see."""
    mask_teacher: bool = False
    """Hide the same patches from the teacher, which otherwise sees all."""
    mim_weight: Annotated[float, Ge(0)] = 0.0
    """Weight of an auxiliary loss, restoring hidden patches by a decoder on the student; it needs a
    mask ratio."""
    mim_decoder_depth: Annotated[int, Interval(ge=1, le=8)] = 1
    """Blocks of that decoder."""


@dataclass(frozen=True)
class Config(Options):
    """Distilling a vision transformer into a smaller one, without labels."""

    teacher: Path | None = None
    """Where the teacher is: a run folder of mae or distil, a file of MAE or TinyMIM (.pth), a
    folder of a ViTMAE of Transformers, or digits, a small one that comes along. Needed."""
    photographs: Annotated[Photographs, FLAT] = Photographs()
    shape: Annotated[Shape, FLAT] = Shape()
    imitation: Annotated[Imitation, FLAT] = Imitation()
    fitting: Annotated[Fitting, FLAT] = Fitting()
    drop_path: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Probability that a branch of a block is dropped, of every block but the last."""
    colour_jitter: Annotated[float, Interval(ge=0, le=1)] = 0.4
    """Strength of random brightness, contrast and saturation of what the student sees."""
    augmentation: Augmentation = "crop"
    """crop: random resized crop and flip. shift: up to a sixteenth of the side. none: the crop of
    evaluation."""
    smallest_crop: Annotated[float, Interval(gt=0, le=1)] = 0.2
    """Share of an image that a random crop has at least."""
    remember_teacher: bool = False
    """Ask the teacher once for each image and keep its queries, keys and values in the run folder,
    12 bytes a token and channel: with --augmentation none, for targets that need no more."""
    teacher_precision: Literal["run", "bf16"] = "run"
    """bf16: let the teacher alone compute in bfloat16; relations differ by about 0.001."""
    reinit_last: Literal["none", "identity"] = "none"
    """What becomes of the student's last block after its queries, keys and values, which is not
    trained by relations: left as initialised (none), or made to add nothing (identity)."""


def read_teacher(config: Config, size: int, channels: int) -> VisionTransformer:
    """The teacher, which must take images of a size.

    Raises:
        ConfigError: None is named.
        CheckpointError: It cannot be read.
    """
    if config.teacher is None:
        raise ConfigError(
            "distil needs a --teacher: a run folder of `modicum train tinymim mae`, a file such as "
            "mae_pretrain_vit_large.pth, or a folder of a ViTMAE."
        )
    teacher = read_encoder(config.teacher)
    known, patch = teacher.arguments["image_size"], teacher.arguments["patch"]
    if known != [size, size] or teacher.arguments["channels"] != channels:
        raise ConfigError(
            f"the teacher takes images of {known[0]} x {known[1]} pixels with "
            f"{teacher.arguments['channels']} channels in patches of {patch}, the images are of "
            f"{size} with {channels}. Choose --size {known[0]}, or other images."
        )
    return teacher


def build_student(
    config: Config, teacher: VisionTransformer, size: int, channels: int
) -> VisionTransformer:
    """The untrained student: its last block has the heads of the teacher's layer.

    Raises:
        ConfigError: The numbers do not go together.
    """
    imitation, shape = config.imitation, config.shape
    relational = any(name in RELATIONS for name in imitation.target.split("+"))
    heads = None
    if relational and imitation.relation_heads is None and imitation.student_layer is None:
        block = list(teacher.blocks)[(teacher_layer(config, teacher)) - 1]
        assert isinstance(block, Block)
        heads = block.attn.num_heads
    shape = replace(shape, patch=shape.patch or teacher.arguments["patch"])
    with torch.device("meta"):
        depth = len(shape.build(size, channels).blocks)
    rates = [config.drop_path] * (depth - 1) + [0.0]
    student = shape.build(size, channels, last_heads=heads, drop_path=rates)
    if config.reinit_last == "identity":
        last = student.blocks[-1]
        for name in ("attn.proj", "mlp.fc2"):
            for parameter in last.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
    return student


def teacher_layer(config: Config, teacher: VisionTransformer) -> int:
    """The layer that is imitated, from 1."""
    depth = len(teacher.blocks)
    layer = config.imitation.teacher_layer or (18 if depth == 24 else depth)
    if layer > depth:
        raise ConfigError(f"--teacher-layer {layer}: the teacher has layers 1 to {depth}.")
    return layer


class Masked(nn.Module):
    """A student with a decoder that restores what it does not see: the auxiliary loss."""

    def __init__(self, student: VisionTransformer, depth: int) -> None:
        super().__init__()
        heads = 16 if student.arguments["width"] >= 192 else 2
        self.decoder = MaskedDecoder(student, student.arguments["width"], depth, heads)

    def forward(self, student: VisionTransformer, images: Tensor, keep: Tensor) -> Tensor:
        """The mean squared error of hidden patches, a scalar, of images `(B, C, H, W)` of which the
        patches `keep`, `(B, kept)`, are seen.
        """
        tokens = student.norm(student.blocks(student.embed(images, keep)))
        return reconstruction_error(self.decoder(tokens, keep), images, keep, normalise=True)


class Remembered:
    """Queries, keys and values of a teacher for every image of a set, mapped from a file.

    Args:
        path: File to write, replaced if it is there.
        distillation: With the teacher.
        loader: Of the images, each once and in order.
        normalise: From bytes to what the teacher takes.
        device: Where it is.
    """

    def __init__(
        self, path: Path, distillation: RelationDistillation, loader: images.Loader,
        normalise: images.Normalise, device: torch.device,
    ) -> None:  # fmt: skip
        # Of this process alone, and made anew by every session: it need not be written atomically.
        self._path, self._device, self._mapped = path, device, None
        with Progress("ask the teacher", loader.samples) as progress:
            for batch in loader.epoch(0):
                layer = distillation.look_at_teacher(normalise(batch.image.to(device)))
                values = torch.stack(layer.qkv, dim=1).float().cpu().numpy()
                if self._mapped is None:
                    shape = (loader.samples, *values.shape[1:])
                    self._mapped = np.memmap(path, np.float32, "w+", shape=shape)
                self._mapped[batch.index.numpy()] = values
                progress.advance(int(batch.index[-1]) + 1)

    def __getitem__(self, index: Tensor) -> Layer:
        """Of the images of some numbers, int64 `(B,)`."""
        assert self._mapped is not None
        values = torch.from_numpy(self._mapped[index.cpu().numpy()]).to(self._device)
        return Layer(QueryKeyValue(*values.unbind(1)))

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def train(config: Config, run: Run) -> nn.Module:
    """Distil, and leave the student in the run's folder.

    Raises:
        DataError: The images cannot be used.
        ConfigError: The options do not fit each other, the teacher or the data.
        CheckpointError: The teacher cannot be read.
    """
    imitation, fitting = config.imitation, config.fitting
    if imitation.mim_weight and not imitation.mask_ratio:
        raise ConfigError("--mim-weight needs a --mask-ratio: there is nothing to restore.")
    if config.remember_teacher and (
        config.augmentation != "none"
        or imitation.mask_teacher
        or not {*imitation.target.split("+")} <= {*RELATIONS, "q", "k", "v"}
    ):
        raise ConfigError(
            "--remember-teacher needs --augmentation none, a teacher that sees all patches, and "
            "targets of queries, keys and values: what it makes of an image must not change."
        )
    train_set, val_set = config.photographs.both(run, labelled=False)
    run.register_data(describe(train=train_set, val=val_set))
    pipeline = Pipeline.of(config.photographs.size, train_set)
    teacher = read_teacher(config, pipeline.size, pipeline.channels)
    student = build_student(config, teacher, pipeline.size, pipeline.channels)
    distillation = RelationDistillation(
        teacher,
        student,
        targets=tuple(imitation.target.split("+")),  # pyright: ignore[reportArgumentType]
        teacher_layer=teacher_layer(config, teacher),
        student_layer=imitation.student_layer,
        form=imitation.form,
        heads=imitation.relation_heads,
        teacher_precision=torch.bfloat16 if config.teacher_precision == "bf16" else None,
    )
    auxiliary = Masked(student, imitation.mim_decoder_depth) if imitation.mim_weight else None
    learned = nn.ModuleDict({"student": student, "projections": distillation.projections})
    if auxiliary is not None:
        learned["auxiliary"] = auxiliary
    loader = images.Loader(
        train_set,
        run.micro_batch_size(fitting.batch_size, len(train_set), usual=64),
        transform=pipeline.views(config.augmentation, config.smallest_crop),
        shuffle=True,
        drop_last=True,
        **run.share,
    )
    optimizer = adamw(learned, fitting)
    distillation, learned, optimizer = run.prepare(distillation, learned, optimizer)
    run.register(learned=learned, optimizer=optimizer)
    student = run.unwrap(distillation).student
    run.result(student, notes=notes_of(config.photographs, train_set, pipeline))

    normalise, jitter = pipeline.normalise(), images.ColourJitter(*[config.colour_jitter] * 3)
    patches = student.grid[0] * student.grid[1]
    steps_an_epoch = len(loader) // run.options.accumulate
    epochs = run.epochs_for(loader, fitting.epochs, usual=100)
    batch_size = loader.batch_size * run.options.accumulate
    val_loader = images.Loader(val_set, 128 * run.world, transform=(pipeline.crop(),), **run.share)

    remembered = None
    if config.remember_teacher:
        remembered = Remembered(
            run.folder / f"teacher-{run.rank}.values", distillation,
            images.Loader(train_set, 128, transform=(pipeline.crop(),), workers=0),
            normalise, run.device,
        )  # fmt: skip

    def terms(
        pixels: Tensor, seen: Tensor, random: SampleRandom, teacher: Layer | None = None
    ) -> dict[str, Tensor]:
        keep = None
        if imitation.mask_ratio:
            keep = kept_patches(random, patches, imitation.mask_ratio).to(run.device)
        with run.autocast():
            losses = distillation(
                normalise(pixels), normalise(seen), keep, mask_teacher=imitation.mask_teacher,
                teacher=teacher,
            )  # fmt: skip
            if auxiliary is not None and keep is not None:
                error = auxiliary(student, normalise(seen), keep)
                losses |= {"reconstruction": imitation.mim_weight * error}
        return losses

    def validation_losses() -> dict[str, float]:
        """Of crops of evaluation, without other colours."""
        sums = torch.zeros(len(imitation.target.split("+")) + 1 + bool(auxiliary))
        names: list[str] = []
        with torch.no_grad():
            for batch in val_loader.epoch(0):
                if count := len(batch.index):
                    pixels = batch.image.to(run.device)
                    losses = terms(pixels, pixels, SampleRandom(run.seed, 0, batch.index.numpy()))
                    names = list(losses)
                    sums += count * torch.tensor([*map(float, losses.values()), 1.0])
        *totals, count = run.sum(sums).tolist()
        found = {f"val_{name}": total / count for name, total in zip(names, totals, strict=True)}
        return {"val_loss": math.fsum(found.values())} | found

    for batch in run.batches(loader, epochs=epochs):
        distillation.train()
        random = SampleRandom(run.seed, run.epoch, batch.index.cpu().numpy())
        seen = jitter(batch.image, random) if config.colour_jitter else batch.image
        known = None if remembered is None else remembered[batch.index]
        losses = terms(batch.image, seen, random, known)
        rate = fitting.rate(run.steps, epochs, steps_an_epoch, batch_size)
        run.step(losses, optimizer, learning_rate=rate)
        run.log(loss=sum(loss.detach() for loss in losses.values()), learning_rate=rate)
        run.log(**{name: loss.detach() for name, loss in losses.items() if len(losses) > 1})
        if run.scores_now(fitting.score_every, epochs):
            distillation.eval()
            run.score(validation_losses(), best="val_loss", higher_is_better=False)
    if remembered is not None:
        remembered.remove()
    return run.finish()
