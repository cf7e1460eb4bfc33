"""The recipe of RELIANT and its presets."""

from __future__ import annotations

import dataclasses
from typing import Any

from modicum.engine.run import RunOptions
from modicum.method import Preset, Recipe
from modicum.methods.reliant.claim import BASE
from modicum.methods.reliant.train import Config, train

# The CPF students of the recipe table (section 6): rounds are its num_layers less one, and where
# the learning rate of the table is 0.001, so is that of the proxies.
_SLOW = {"learning_rate": 0.001, "proxy_learning_rate": 0.001}
_CPF: dict[str, tuple[str, dict[str, Any]]] = {
    "recidivism": ("recidivism=bail", {}),
    "recidivism-sage": ("recidivism=bail", {"teacher": "sage"}),
    "credit": ("credit=credit", {}),
    "credit-sage": ("credit=credit", {"teacher": "sage"}),
    "dblp": ("dblp=dblp", _SLOW),
    "dblp-sage": ("dblp=dblp", {"teacher": "sage"}),
    "dblp-l": ("dblp=dblp-l", {"rounds": 4, **_SLOW}),
    "dblp-l-sage": ("dblp=dblp-l", {"rounds": 4, "teacher": "sage"}),
    "german": ("german=german", {"rounds": 7}),
    "german-sage": ("german=german", {"teacher": "sage", **_SLOW}),
    "recidivism-gat": ("recidivism=bail", {"teacher": "gat", **_SLOW}),
    "german-gat": ("german=german", {"teacher": "gat", "rounds": 7, **_SLOW}),
}
"""The last two stand for all teachers but GCN and GraphSAGE, whose row is the same."""
PRESETS = {
    name: Preset(
        f"CPF on {source.partition('=')[0]} with the {options.get('teacher', 'gcn')} teacher "
        f"(recipe of the official code, section 6).",
        Config(data=source, **options),
        RunOptions(),
    )
    for name, (source, options) in _CPF.items()
}

RECIPE = Recipe(
    config=Config,
    train=train,
    presets={
        "default": Preset(
            "the official recipe: at most 1000 epochs of teacher and students, CPF.",
            Config(),
            RunOptions(),
        ),
        **PRESETS,
        "recidivism-official": Preset(
            "the authors' CPF run on Recidivism: the RELIANT student, and it alone, does not see "
            "TIME and FILE, of which TIME gives the label away; the teacher's probabilities have "
            "4 decimals; the proxies are the last epoch's.",
            dataclasses.replace(
                PRESETS["recidivism"].config,
                drop_from_student=("TIME", "FILE"),
                round_soft_targets=True,
                last_proxies=True,
            ),
            RunOptions(),
        ),
        "akd": Preset(
            "GraphAKD with the GCN teacher (official code).",
            Config(framework="akd"),
            RunOptions(),
        ),
        "akd-official": Preset(
            "GraphAKD as the authors' code has it: the student's rate of section 6, which leaves "
            "Recidivism in its larger class, and dropout left on when it is scored.",
            Config(
                framework="akd",
                learning_rate=1e-4,
                dropout_in_evaluation=True,
                last_proxies=True,
            ),
            RunOptions(),
        ),
        "akd-sage": Preset(
            "GraphAKD with the GraphSAGE teacher, both 128 wide: as configured the official code "
            "does not fit together (inferred).",
            Config(framework="akd", teacher="sage", hidden=128),
            RunOptions(),
        ),
        "blocks": Preset(
            "the small experiment of the specification on the block model, in half a minute.",
            dataclasses.replace(BASE, compare=True),
            RunOptions(),
        ),
        "smoke": Preset(
            "a few epochs on the block model, to see that everything works.",
            dataclasses.replace(BASE, compare=True, teacher_epochs=6, epochs=6, hidden=16, parts=2),
            RunOptions(),
        ),
    },
)
