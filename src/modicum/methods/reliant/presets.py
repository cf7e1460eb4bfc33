"""The recipes of RELIANT and their presets."""

from __future__ import annotations

import dataclasses
from typing import Any

from modicum.method import Preset, Recipe
from modicum.methods.reliant.claim import BASE, BASE_TEACHER
from modicum.methods.reliant.recipes import distil, teacher
from modicum.methods.reliant.recipes.distil import Config
from modicum.methods.reliant.recipes.teacher import Teacher
from modicum.options import replace


def _cpf(data: str, network: Any = "gcn", **options: Any) -> Preset:
    name = data.partition("=")[0]
    about = f"CPF on {name} with the {network} teacher (recipe of the official code)."
    return Preset(about, replace(Config(), data=data, teacher=Teacher(network=network), **options))


# Students of CPF as in the official code: rounds are its num_layers less one, and where its
# learning rate is 0.001, so is that of the proxies. The rows of the GAT teacher are those of all
# teachers but GCN and GraphSAGE.
_SLOW = {"learning_rate": 0.001, "proxy_learning_rate": 0.001}
CPF = {
    "recidivism": _cpf("recidivism=bail"),
    "recidivism-sage": _cpf("recidivism=bail", "sage"),
    "credit": _cpf("credit=credit"),
    "credit-sage": _cpf("credit=credit", "sage"),
    "dblp": _cpf("dblp=dblp", **_SLOW),
    "dblp-sage": _cpf("dblp=dblp", "sage"),
    "dblp-l": _cpf("dblp=dblp-l", rounds=4, **_SLOW),
    "dblp-l-sage": _cpf("dblp=dblp-l", "sage", rounds=4),
    "german": _cpf("german=german", rounds=7),
    "german-sage": _cpf("german=german", "sage", **_SLOW),
    "recidivism-gat": _cpf("recidivism=bail", "gat", **_SLOW),
    "german-gat": _cpf("german=german", "gat", rounds=7, **_SLOW),
}
SMOKE = dataclasses.replace(BASE_TEACHER, epochs=6, patience=300)

TEACHER = Recipe(
    config=teacher.Config,
    train=teacher.train,
    presets={
        "default": Preset("the official recipe: a GCN, at most 1000 epochs.", teacher.Config()),
        "blocks": Preset(
            "the teacher of the small experiment on the block model (see README, Results).",
            teacher.Config(teacher=BASE_TEACHER),
        ),
        "smoke": Preset(
            "a few epochs on the block model, to see that everything works.",
            replace(teacher.Config(teacher=SMOKE), parts=2),
        ),
    },
)

DISTIL = Recipe(
    config=Config,
    train=distil.train,
    presets={
        "default": Preset(
            "the official recipe: at most 1000 epochs of teacher and students, CPF.", Config()
        ),
        **CPF,
        "recidivism-official": Preset(
            "the authors' CPF run on Recidivism: the RELIANT student, and it alone, does not see "
            "TIME and FILE, of which TIME gives the label away; the teacher's probabilities have "
            "4 decimals; the proxies are the last epoch's.",
            replace(
                CPF["recidivism"].config,
                drop_from_student=("TIME", "FILE"),
                round_soft_targets=True,
                last_proxies=True,
            ),
        ),
        "akd": Preset("GraphAKD with the GCN teacher (official code).", Config(framework="akd")),
        "akd-official": Preset(
            "GraphAKD as the authors' code has it: the student's rate of 0.0001, which leaves "
            "Recidivism in its larger class, and dropout left on when it is scored.",
            replace(
                Config(framework="akd"),
                learning_rate=1e-4,
                dropout_in_evaluation=True,
                last_proxies=True,
            ),
        ),
        "akd-sage": Preset(
            "GraphAKD with the GraphSAGE teacher, both 128 wide: as configured the official code "
            "does not fit together (inferred).",
            replace(Config(framework="akd"), teacher=Teacher(network="sage"), hidden=128),
        ),
        "blocks": Preset(
            "the small experiment on the block model (see README, Results), in half a minute.",
            replace(BASE, compare=True),
        ),
        "smoke": Preset(
            "a few epochs on the block model, to see that everything works.",
            replace(BASE, compare=True, teacher=SMOKE, epochs=6, hidden=16, parts=2),
        ),
    },
)
