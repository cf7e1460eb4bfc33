"""The recipes of the toy method and their presets."""

from __future__ import annotations

from modicum.method import Preset, Recipe
from modicum.methods.toy import train

SHORT = train.Learning(epochs=3)

TEACHER = Recipe(
    train.TeacherConfig,
    train.train_teacher,
    {
        "default": Preset("10 epochs.", train.TeacherConfig()),
        "smoke": Preset("24 steps on made-up points.", train.TeacherConfig(SHORT)),
    },
)
STUDENT = Recipe(
    train.StudentConfig,
    train.train_student,
    {
        "default": Preset("10 epochs.", train.StudentConfig()),
        "smoke": Preset("24 steps on made-up points.", train.StudentConfig(SHORT)),
    },
)
