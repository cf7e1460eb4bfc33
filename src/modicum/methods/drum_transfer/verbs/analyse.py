"""The verb `analyse`: which bars of a groove are its pattern and which are fills, and how it is
played.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from modicum.errors import DataError
from modicum.inference import none_of
from modicum.methods.drum_transfer.metrics.measures import PLAYING, hits_per_bar, self_similarity
from modicum.methods.drum_transfer.metrics.structure import (
    BARS,
    Clusterer,
    Structure,
    structure,
    structure_means,
)
from modicum.methods.drum_transfer.options import Reading
from modicum.methods.drum_transfer.rendering import pictures
from modicum.methods.drum_transfer.rendering.pictures import MOST_BARS
from modicum.methods.drum_transfer.text import drumroll
from modicum.methods.drum_transfer.text.files import groove_paths, numbered, read_groove
from modicum.methods.drum_transfer.text.grids import Grids, read_grids
from modicum.methods.drum_transfer.text.notation import INSTRUMENTS, Groove
from modicum.options import FLAT, check_arguments
from modicum.report.pictures import png
from modicum.system.files import atomic_write, to_json, write_text
from modicum.system.progress import Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OF_BARS = ("onset_density", "off_beat_ratio", "back_beat_consistency", "beyond_two_hands")
"""Measures that say something of a single bar."""


@dataclass(frozen=True)
class Analysis:
    """What is found in one groove."""

    groove: Groove
    structure: Structure
    grids: Grids
    """The groove as arrays, alone."""

    @classmethod
    def of(
        cls, groove: Groove, *, official: bool = False, clusterer: Clusterer = "exact"
    ) -> Analysis:
        """Measure a groove, well-formed or not, with or without separators.

        `official` compares the first 16 bars, not all, see `structure.stability`.

        Raises:
            DataError: There is no line in it that can be read.
            MissingExtraError: rapidfuzz is not installed.
        """
        text, notation = drumroll.without_separators(groove.text), groove.notation
        grids = read_grids([text], notation)
        if not grids.readable.any():
            first = text.split("\n", 1)[0][:40]
            raise DataError(
                f"{groove.name}: no line of a groove in it. Expected lines such as "
                f"{notation.silence!r}; found {first!r}."
            )
        how: Any = {"official": official, "clusterer": clusterer}
        most = BARS if official else None
        return cls(groove, structure(text, notation=notation, most_bars=most, **how), grids)

    @property
    def bars(self) -> int:
        """Bars, a short tail being one."""
        return -(-int(self.grids.steps[0]) // self.grids.notation.steps_per_bar)

    def summary(self) -> dict[str, Any]:
        """Numbers of the whole groove; NaN where one is not defined, and why."""
        found = self.structure
        return {
            "bars": self.bars,
            "unreadable_steps": int(self.grids.unreadable[0]),
            "stability": structure_means([found]).stability,
            "separation": found.separation,
            "tightness": found.tightness,
            "fills": [bar + 1 for bar in found.fills],
            **({"undefined": found.undefined} if found.undefined else {}),
        }

    def playing(self) -> dict[str, float]:
        """How the whole groove is played: hits a bar, of each instrument too, and `PLAYING`; NaN
        where that is not defined.
        """
        hits = hits_per_bar(self.grids)[0].tolist()
        measured = {name: float(measure(self.grids)[0]) for name, measure in PLAYING.items()}
        return {"hits_per_bar": sum(hits)} | dict(zip(INSTRUMENTS, hits, strict=True)) | measured

    def by_bar(self) -> list[dict[str, Any]]:
        """A record a bar, from 1: pattern or fill, its stability, and how it is played.

        The first and the last bar are neither and have no stability.
        """
        size = self.grids.notation.steps_per_bar
        alone = Grids(
            self.grids.notation,
            self.grids.hits[0].reshape(-1, size, len(INSTRUMENTS)),
            self.grids.readable[0].reshape(-1, size),
            np.minimum(size, self.grids.steps[0] - size * np.arange(self.bars)),
        )
        columns = {"hits": alone.struck.sum((1, 2)).tolist()}
        columns |= {name: PLAYING[name](alone).tolist() for name in _OF_BARS}
        rows = [{"bar": bar + 1, "kind": "", "stability": None} for bar in range(self.bars)]
        for bar, stable in enumerate(self.structure.stability.tolist(), start=1):
            kind = "fill" if bar in self.structure.fills else "pattern"
            rows[bar] |= {"kind": kind, "stability": stable}
        return [
            row | {name: columns[name][bar] for name in columns} for bar, row in enumerate(rows)
        ]

    def pictures(self) -> dict[str, bytes]:
        """The step grid, and which bars are alike, as PNG files by what follows in their names."""
        alike = f"{self.groove.name}: bars that are alike"
        size = MOST_BARS * self.grids.notation.steps_per_bar
        first = replace(
            self.grids,
            hits=self.grids.hits[:, :size],
            readable=self.grids.readable[:, :size],
            steps=self.grids.steps.clip(max=size),
        )
        similarity = pictures.similarity_matrix(self_similarity(first)[0], alike)
        return {"": self.picture(), "_bars": similarity}

    def picture(self) -> bytes:
        """The step grid with its fills marked, the stability of its bars below, as a PNG file."""
        from matplotlib.figure import Figure

        grids, found, notation = self.grids, self.structure, self.grids.notation
        drawn = min(self.bars, MOST_BARS)
        across = min(drawn, BARS)
        # Both of the same width, so that bars stand above their stability where one line holds all.
        grid, gap, curve = 1.25 * -(-drawn // across), 0.15, 1.2
        height = grid if found.undefined else grid + gap + curve
        figure = Figure(figsize=(max(1.8, 0.9 * across), height))
        above = figure.add_axes((0, 1 - grid / height, 1, grid / height))
        # As it was read: malformed lines are silent here.
        text = drumroll.to_text(grids.hits[0, : grids.steps[0]], notation)
        pictures.draw_step_grid(above, text, notation, fills=found.fills, bars_per_line=across)
        title = self.groove.name
        if found.undefined:
            title += f": {found.undefined}"
        else:
            title += f": separation {found.separation:.2f}, tightness {found.tightness:.2f}"
            self._draw_stability(figure.add_axes((0, 0, 1, curve / height)))
        if drawn < self.bars:
            title += f", the first {drawn} of {self.bars} bars"
        if unreadable := int(grids.unreadable[0]):
            title += f", {unreadable} steps unreadable"
        above.set_title(title.replace("$", r"\$"), fontsize=10, loc="left")
        return png(figure)

    def _draw_stability(self, axes: Axes) -> None:
        """Stability over the bars, counted from 1, and the means of pattern and fills."""
        from matplotlib.ticker import MaxNLocator

        stable, number = self.structure.stability, 2 + np.arange(len(self.structure.stability))
        fill = np.isin(number - 1, self.structure.fills)
        axes.plot(number, stable, color=pictures.MUTED, linewidth=1)
        kinds = (~fill, pictures.HIT, "o", "pattern"), (fill, pictures.FILL, "s", "fill")
        for chosen, colour, marker, name in kinds:
            if chosen.any():
                y = stable[chosen]
                axes.plot(number[chosen], y, marker, color=colour, markersize=5, label=name)
                axes.axhline(y.mean(), color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
        for bar in number[fill]:
            axes.axvspan(bar - 0.5, bar + 0.5, color=pictures.FILL, alpha=0.08, linewidth=0)
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        bars = int(self.grids.steps[0]) / self.grids.notation.steps_per_bar
        axes.set(xlim=(0.5, 0.5 + bars), ylim=(0, max(1.0, 1.1 * stable.max())))
        axes.set_xlabel("bar", fontsize=8)
        axes.set_ylabel("stability", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right"]].set_visible(False)


@check_arguments
def analyse(
    files: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("analysis"),
    official: bool = False,
    clusterer: Clusterer = "exact",
    picture: bool = True,
    reading: Annotated[Reading, FLAT] = Reading(meter_bars=True),
) -> dict[str, Any]:
    """Say which bars of grooves are pattern and which are fills, and how they are played.

    Stability is how far a bar is from the nearer of its neighbours, in characters. Fills are the
    less stable of two clusters of bars; separation is the distance between their means, tightness
    that of a bar from the mean of its own.

    Lines of a text that cannot be read are counted and left out of how it is played. If they are
    more than half of those that are not silence, or another notation reads every line, the text is
    taken to be in another notation, and refused.

    Args:
        files: MIDI files, drum tabs or drumroll lines (.tab, .txt), or folders of them. One that
            cannot be used is reported, in the exit code too, and does not stop the others.
        out: Folder for analysis.json, which has every number of every bar, and two pictures of each
            file: its steps with the stability of its bars, and which bars are alike.
        official: As the paper's scripts: of MIDI 16 bars of its meter, filled up with silence, of
            texts all; these steps are cut into bars of 16 whatever the meter, in 3/4 into 12, and
            the first 16 of them compared, with doubled newlines. Otherwise the whole performance,
            to the bar of the last hit.
        clusterer: exact, or sklearn as in the paper's script.
        picture: Draw pictures.
        reading: How files are read.

    Returns:
        Tables of the files, of how they are played, and of a single file's bars; NaN where a
        measure is not defined.

    Raises:
        DataError: No file can be used.
        MissingExtraError: rapidfuzz is not installed.
    """
    reading = replace(reading, meter_bars=reading.meter_bars and not official)
    most = BARS if official else None
    paths = groove_paths(files)
    rows: list[dict[str, Any]] = []
    found: dict[str, Analysis] = {}
    drawn: list[str] = []
    with Progress("analyse", len(paths)) as progress:
        labels = numbered(path.name for path in paths)
        for done, (path, label) in enumerate(zip(paths, labels, strict=True), start=1):
            try:
                groove = read_groove(path, reading, name=label, bars=most, malformed="keep")
                if not official:
                    groove = _without_trailing_silence(groove)
                found[label] = Analysis.of(groove, official=official, clusterer=clusterer)
            except DataError as error:
                rows.append({"file": label, "error": str(error)})
            else:
                rows.append({"file": label} | found[label].summary())
                for end, content in found[label].pictures().items() if picture else ():
                    drawn.append(str(out / f"{label}{end}.png"))
                    with atomic_write(out / f"{label}{end}.png") as file:
                        file.write(content)
            progress.advance(done)
    if not found:
        raise none_of([row["error"] for row in rows], "used")
    means = structure_means([one.structure for one in found.values()])
    result: dict[str, Any] = {
        "read": len(found),
        "unusable": len(rows) - len(found),
        "usable": len(rows) == len(found),
        "without_structure": means.excluded,
        "mean_stability": means.stability,
        "mean_separation": means.separation,
        "mean_tightness": means.tightness,
        "files": rows,
        "playing": [{"file": label} | one.playing() for label, one in found.items()],
    }
    bars = {label: one.by_bar() for label, one in found.items()}
    details = out / "analysis.json"
    write_text(details, to_json(result | {"bars": bars}) + "\n")
    if len(bars) == 1:
        (result["bars"],) = bars.values()
    return result | {"details": str(details), "pictures": drawn}


def _without_trailing_silence(groove: Groove) -> Groove:
    """A text to the bar of the last hit, or of a malformed line, as MIDI is read."""
    text, notation = drumroll.without_separators(groove.text), groove.notation
    grids = read_grids([text], notation)
    within = np.arange(grids.hits.shape[1]) < grids.steps[0]
    (heard,) = (grids.struck[0].any(1) | (within & ~grids.readable[0])).nonzero()
    last = int(heard.max(initial=0)) // notation.steps_per_bar
    return replace(groove, text="".join(drumroll.bars(text, notation)[: last + 1]))
