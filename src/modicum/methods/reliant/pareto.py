"""The verb `pareto`: what accuracy each step towards a smaller gap costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modicum.errors import ConfigError
from modicum.methods.reliant.data.people import open_graph
from modicum.methods.reliant.inference import Trained
from modicum.methods.reliant.metrics import pareto_front
from modicum.methods.reliant.recipes.distil import Config
from modicum.options import check_arguments, replace, whole_path
from modicum.system.files import atomic_write

if TYPE_CHECKING:
    from modicum.claims import Picture

Recipe = Literal["quick", "official"]


@check_arguments
def pareto(
    data: str = "blocks",
    run: Path | None = None,
    alphas: tuple[float, ...] | None = None,
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
        run: A run of yours, for instance on a table of yours: everything but the weight and the
            seed is as in it. --data, --objective, --recipe and --framework are then left out.
        alphas: Weights of the fairness term; 0 is the plain student with proxies. None: 0 10 100
            1000 for cpf, 0 1 10 100 for akd.
        seeds: Seeds each is trained with.
        objective: sp, statistical parity, or eo, equal opportunity.
        recipe: quick: 300 epochs of the teacher and 200 (cpf) or 300 (akd) of the student;
            official: those of the preset `default`.
        framework: cpf or akd.
        teacher_epochs: Epochs of the teacher; none: those of the recipe.
        epochs: Epochs of the students; none: those of the recipe.
        out: Folder for pareto.png and pareto.csv.
        jobs: Trained at a time; none: the number of cores.

    Returns:
        Means over the seeds of test accuracy, AUC and absolute gaps for each weight, in percent,
        the teacher's among them, and whether they are on the front.
    """
    from modicum.claims import Study, run_study
    from modicum.inference import write_table
    from modicum.methods.reliant import pictures
    from modicum.methods.reliant.claim import arm_of, measure

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: must be at least 1.")
    base = _base(data, run, objective, recipe, framework)
    base = replace(
        base,
        compare=False,
        teacher=dataclasses.replace(base.teacher, epochs=teacher_epochs or base.teacher.epochs),
        epochs=epochs or base.training.epochs,
    )
    if alphas is None:
        alphas = (0.0, 10.0, 100.0, 1000.0) if base.framework == "cpf" else (0.0, 1.0, 10.0, 100.0)
    if not alphas:
        raise ConfigError("--alphas: give at least one weight.")
    arms = {f"{alpha:g}": arm_of(replace(base, alpha=alpha)) for alpha in alphas}
    graph = open_graph(base.people)
    found = run_study(
        Study(
            "reliant", graph.name, arms, (), measure, _no_pictures, fingerprint=graph.fingerprint()
        ),
        range(seeds),
        jobs=jobs,
    )
    gap = f"{base.fairness.objective}_gap"
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
    drawn = [(point["alpha"], point["accuracy"], point["gap"]) for point in points]
    axis = "eo" if base.fairness.objective == "eo" else "sp"
    with atomic_write(out / "pareto.png") as file:
        file.write(pictures.pareto_plot(drawn, objective=axis))
    files = {"picture": str(out / "pareto.png"), "table": str(out / "pareto.csv")}
    about = {"graph": graph.name, "test_nodes": len(graph.test), "seeds": seeds}
    return about | {"weights": rows} | files


def _base(
    data: str,
    run: Path | None,
    objective: Literal["sp", "eo"],
    recipe: Recipe,
    framework: Literal["cpf", "akd"],
) -> Config:
    """What all weights have in common."""
    from modicum.methods.reliant.claim import BASE

    if run is not None:
        if (data, objective, recipe, framework) != ("blocks", "sp", "quick", "cpf"):
            raise ConfigError("--run: it says data, objective, recipe and framework; leave these.")
        trained = Trained.load(run)
        if not isinstance(trained.config, Config):
            raise ConfigError(f"--run {run}: it is a run of a teacher, without students.")
        if trained.config.fairness.objective == "none":
            raise ConfigError(f"--run {run}: its student has no fairness term (--objective none).")
        trained.open_graph()  # which refuses a graph that is not there
        return trained.config
    base = Config() if recipe == "official" else BASE
    if framework == "akd" and recipe == "quick":  # BASE is a recipe of cpf
        base = replace(Config(), teacher=BASE.teacher, epochs=300)
    return replace(base, data=whole_path(data), objective=objective, framework=framework)


def _no_pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    return ()
