"""A claim: of two students of one teacher, the wider is closer to the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from modicum.claims import Claim, Picture, Stage, Study
from modicum.methods.toy import metrics
from modicum.methods.toy.data import open_clouds
from modicum.methods.toy.train import Learning, StudentConfig, TeacherConfig

WIDER = Claim(
    "wider is closer",
    "A student of eight hidden units is closer to the points than one of two.",
    method="wide student",
    baseline="narrow student",
    metric="distance",
    unit="squared units",
    higher_is_better=False,
)


def study(data: str | None = None) -> Study:
    """The claim, on made-up points or on those of `Learning.data`."""
    learning = Learning(data or "points")
    held_out = open_clouds(learning.data, "val")
    teacher = Stage(TeacherConfig(learning), "teacher")
    return Study(
        method="toy",
        data=f"{learning.data}: {len(held_out.points)} clouds for testing.",
        arms={
            arm: Stage(StudentConfig(learning, width), "student", {"teacher_run": teacher})
            for arm, width in (("narrow student", 2), ("wide student", 8))
        },
        claims=[WIDER],
        measure=measure,
        pictures=pictures,
        fingerprint=str(open_clouds(learning.data, "train").moments.sum(0).tolist()),
    )


def measure(config: StudentConfig, network: nn.Module) -> Mapping[str, float]:
    """`distance` on the clouds held out of training."""
    return metrics.measure(network, open_clouds(config.learning.data, "val"))


def pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    """None: there is nothing to see."""
    return []
