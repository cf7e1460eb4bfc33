"""The verb `pareto`: what accuracy each step towards a smaller gap costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from modicum.claims import Picture, Study, run_study
from modicum.classification import write_table
from modicum.engine.files import atomic_write, whole_path
from modicum.errors import ConfigError
from modicum.methods.reliant import pictures
from modicum.methods.reliant.claim import BASE, fingerprint, measure
from modicum.methods.reliant.metrics import pareto_front
from modicum.methods.reliant.train import Config, open_graph

Recipe = Literal["quick", "official"]


def pareto(
    data: str = "blocks",
    alphas: tuple[float, ...] = (0.0, 10.0, 100.0, 1000.0),
    seeds: int = 3,
    objective: Literal["sp", "eo"] = "sp",
    recipe: Recipe = "quick",
    framework: Literal["cpf", "akd"] = "cpf",
    teacher_epochs: int | None = None,
    epochs: int | None = None,
    out: Path = Path("pareto"),
    jobs: int | None = None,
) -> dict[str, Any]:
    """Train RELIANT students over a range of weights and say which of them none other beats.

    A point is on the front if no other is at least as accurate with a gap at least as small.
    Trained students are remembered: more weights or seeds later train only what is new.

    Args:
        data: What `modicum train reliant --data` takes.
        alphas: Weights of the fairness term; 0 is the plain student with proxies.
        seeds: Seeds each is trained with.
        objective: sp, statistical parity, or eo, equal opportunity.
        recipe: quick: 300 epochs of the teacher and 200 of the student; official: the preset
            `default`.
        framework: cpf or akd.
        teacher_epochs: Epochs of the teacher; none: those of the recipe.
        epochs: Epochs of the students; none: those of the recipe.
        out: Folder for pareto.png and pareto.csv.
        jobs: Trained at a time; none: the number of cores.

    Returns:
        Means over the seeds of test accuracy, AUC and absolute gaps for each weight, in percent,
        the teacher's among them, and whether they are on the front.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: must be at least 1.")
    if not alphas:
        raise ConfigError("--alphas: give at least one weight.")
    base = BASE if recipe == "quick" else Config()
    base = dataclasses.replace(
        base,
        data=whole_path(data),
        objective=objective,
        framework=framework,
        compare=False,
        teacher_epochs=teacher_epochs or base.teacher_epochs,
        epochs=epochs or base.epochs,
    )
    arms = {f"{alpha:g}": dataclasses.replace(base, alpha=alpha) for alpha in alphas}
    graph = open_graph(base)
    found = run_study(
        Study(
            method="reliant",
            data=data,
            arms=arms,
            claims=(),
            measure=measure,
            pictures=_no_pictures,
            fingerprint=fingerprint(graph),
        ),
        range(seeds),
        jobs=jobs,
    )
    gap = f"{objective}_gap"
    rows: list[dict[str, Any]] = []
    for alpha in arms:
        of_arm = [result.metrics for result in found.results if result.arm == alpha]
        means = {name: sum(m[name] for m in of_arm) / len(of_arm) for name in of_arm[0]}
        rows.append({"alpha": float(alpha)} | means)
    front = set(pareto_front([row["accuracy"] for row in rows], [row[gap] for row in rows]))
    for place, row in enumerate(rows):
        row["on_front"] = place in front
    points = [
        {"alpha": float(r.arm), "seed": r.seed, "accuracy": r.metrics["accuracy"]}
        | {"gap": r.metrics[gap]}
        for r in found.results
    ]
    write_table(out / "pareto.csv", points)
    with atomic_write(out / "pareto.png") as file:
        file.write(
            pictures.pareto_plot(
                [(point["alpha"], point["accuracy"], point["gap"]) for point in points],
                objective=objective,
            )
        )
    return {
        "graph": graph.name,
        "measured_on": f"{len(graph.test):,} test nodes, {seeds} seeds",
        "weights": rows,
        "picture": str(out / "pareto.png"),
        "table": str(out / "pareto.csv"),
    }


def _no_pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    return ()
