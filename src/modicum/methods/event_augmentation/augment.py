"""EventReverse and EventDrift: events as another brightness would have made them.

Two operators and their compositions (H. Shen et al., arXiv 2207.11659, versions 1 to 3). A camera
that sees the scene with bright and dark exchanged, mirrored, moved, played backwards, or with other
thresholds reports other events; the operators make these events from the recorded ones.

The paper's method section could not be obtained: all definitions and default values are inferred
(README, The operators). The operations themselves are in `modicum.events.operations`.

Label safety: left and right decide the class of digits, letters and of gestures with a direction.
For those use `modes=("time", "polarity")`; all modes suit objects (N-CARS, N-Caltech101,
CIFAR10-DVS).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modicum.engine.random import SampleRandom, fold_keys
from modicum.errors import ConfigError
from modicum.events import EventBatch, frame_operations, operations, transforms
from modicum.events.operations import Border, Fragments, OneOrBatch
from modicum.events.transforms import Draws, EventTransform, between


def drawn_modes(p: float, modes: Sequence[str], draws: Draws) -> npt.NDArray[np.str_]:
    """The mode of each of B samples, by its first two numbers; "" with probability 1 - p."""
    number = np.where(draws[:, 0] < p, np.floor(draws[:, 1] * len(modes)), -1)
    return np.array([*modes, ""])[number.astype(np.int64)]


def occurring(modes: npt.NDArray[np.str_]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Each mode among those of B samples but "", and the samples (B,) it is for."""
    for mode in np.unique(modes[modes != ""]).tolist():
        yield mode, modes == mode


def check_modes(transform: object, modes: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an empty choice of modes, or one with a mode that is not known (`ConfigError`)."""
    if isinstance(modes, str) or not modes or not set(modes) <= set(known):
        raise ConfigError(
            f"{type(transform).__name__}: modes is {modes!r}; expected a sequence of some of "
            f"{', '.join(known)}."
        )


@dataclass(frozen=True)
class _OnFragments(EventTransform):
    """What both operators share: how likely they act, and on which part of a recording."""

    p: float = 0.5
    """Probability that a recording is changed."""
    ratio: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)
    """Smallest and largest length of the fragment, as a share of the recording's."""
    box: tuple[float, float] | None = field(default=None, kw_only=True)
    """Smallest and largest side of the fragment's box, as a share of the sensor's; none: no box."""

    def __post_init__(self) -> None:
        transforms.check_probability(self, "p")
        transforms.check_share(self, "ratio", self.ratio)
        transforms.check_share(self, "box", self.box or (1.0, 1.0))

    def _fragments(self, samples: EventBatch | Tensor, draws: Draws) -> Fragments:
        """The part of each sample that may be changed, by 6 numbers each: (B,6)."""
        if isinstance(samples, EventBatch):
            window = transforms.random_window(Fragments.whole(samples), draws[:, :2], self.ratio)
            height, width = samples.height, samples.width
        else:
            window = transforms.random_frame_window(samples, draws[:, :2], self.ratio)
            height, width = samples.shape[-2:]
        if self.box is None:
            return window
        return replace(window, box=transforms.random_box(draws[:, 2:], self.box, height, width))


@dataclass(frozen=True)
class EventReverse(_OnFragments):
    """Reverse a recording in one domain, chosen for each recording: `EventInvert` in version 2.

    The modes, of which one is chosen:

    - `"time"`: backwards, `t' = ta + tb - t`, with `p' = 1 - p`
    - `"polarity"`: ON for OFF, `p' = 1 - p`
    - `"x"`, `"y"`: mirrored

    Domains are combined by applying one after the other (`Compose`).
    """

    modes: Sequence[str] = ("time", "polarity", "x")
    """Which modes there are to choose from; see the text of this module for which are safe."""
    couple_polarity: bool = True
    """Whether reversing time exchanges ON and OFF. False is physically wrong, for ablations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_modes(self, self.modes, ("time", "polarity", "x", "y"))

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        return self._reverse(operations, batch, random)

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """See `EventTransform.on_frames`."""
        return self._reverse(frame_operations, frames.clone(), random)

    def _reverse(self, of: Any, samples: Any, random: SampleRandom) -> Any:
        """Events or frames reversed by the module `of` operations on them."""
        draws = random.uniform(8, "event reverse")
        fragments = self._fragments(samples, draws[:, 2:])
        functions = {
            "time": partial(of.reverse_time, couple_polarity=self.couple_polarity),
            "polarity": of.reverse_polarity,
            "x": of.reverse_x,
            "y": of.reverse_y,
        }
        for mode, chosen in occurring(drawn_modes(self.p, self.modes, draws)):
            samples = functions[mode](samples, fragments.only(chosen))
        return samples


EventInvert = EventReverse


@dataclass(frozen=True)
class Drifts:
    """What `EventDrift` does to each of B recordings. Single values serve all."""

    mode: npt.ArrayLike
    """`"space"`, `"velocity"`, `"time"`, or `""` for nothing, (B,)."""
    dx: npt.ArrayLike = 0
    """Whole pixels to the right, for `"space"`, (B,)."""
    dy: npt.ArrayLike = 0
    """Whole pixels down, for `"space"`, (B,)."""
    vx: npt.ArrayLike = 0.0
    """Pixels to the right at the end of the fragment, for `"velocity"`, (B,)."""
    vy: npt.ArrayLike = 0.0
    """Pixels down at the end of the fragment, for `"velocity"`, (B,)."""
    dt: npt.ArrayLike = 0
    """Microseconds (of frames, frames) later, for `"time"`, (B,); (B,2) for OFF and ON."""
    fragments: Fragments | None = None
    """The part of each recording that drifts; none: the whole."""


@dataclass(frozen=True)
class EventDrift(_OnFragments):
    """Shift a recording in space or in time, chosen for each recording.

    The modes, of which one is chosen:

    - `"space"`: by whole pixels, up to `max_shift`, as if the scene were somewhere else
    - `"velocity"`: more and more, up to `max_shift` at the end, as if it moved at another speed
    - `"time"`: by up to `max_dt`, as with another contrast or another threshold

    `draw` gives what is drawn for recordings, and `apply` applies `Drifts` of your own.
    """

    modes: Sequence[str] = ("space", "time")
    """Which modes there are to choose from."""
    max_shift: float = 0.1
    """Largest shift as a share of the side (rounded down to pixels for "space")."""
    max_dt: float = 0.1
    """Largest shift in time as a share of the recording's duration."""
    per_polarity: bool = False
    """Whether ON and OFF events are shifted in time by numbers of their own."""
    border: Border = "drop"
    """What leaves the sensor or the recording is dropped, wrapped, or (time only) clipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_modes(self, self.modes, ("space", "velocity", "time"))
        for name in ("max_shift", "max_dt"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"EventDrift: {name} is {getattr(self, name)}; expected a share of 0 to 1: a "
                    f"drift is not larger than the sensor or the recording."
                )
        borders = ("drop", "wrap", "clip") if set(self.modes) == {"time"} else ("drop", "wrap")
        if self.border not in borders:
            raise ConfigError(
                f"EventDrift: the border is {self.border!r} with the modes {tuple(self.modes)}; "
                f"expected {' or '.join(borders)}. Only drifts in time can be clipped."
            )

    def draw(self, batch: EventBatch, random: SampleRandom) -> Drifts:
        """How far each of B recordings drifts."""
        draws = random.uniform(12, "event drift")
        first, last = operations.first_and_last(batch)
        dt = np.trunc(self._shares(draws) * (last - first)[:, None]).astype(np.int64)
        return self._drifts(batch, draws, dt, batch.height, batch.width)

    def apply(self, events: OneOrBatch, drifts: Drifts) -> OneOrBatch:
        """Recordings, sorted by time, drifted as told; one without events left stays as it was.

        Raises:
            DataError: Shapes that are not of B recordings, or a shift larger than the sensor.
        """
        return self._apply(
            events, lambda batch: self._drift(operations, batch, drifts, Fragments.whole(batch))
        )

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        return self._drift(operations, batch, self.draw(batch, random), Fragments.whole(batch))

    def draw_frames(self, frames: Tensor, random: SampleRandom) -> Drifts:
        """How far each of the frames `(B, T, 2, H, W)` drift: in time, to whole frames."""
        draws = random.uniform(12, "event drift")
        dt = np.rint(self._shares(draws) * frames.shape[1]).astype(np.int64)
        return self._drifts(frames, draws, dt, *frames.shape[-2:])

    def apply_frames(self, frames: Tensor, drifts: Drifts) -> Tensor:
        """Frames `(B, T, 2, H, W)` drifted as told; `dt` and fragments count frames."""
        whole = frame_operations.whole(frames)
        return self._drift(frame_operations, frames.clone(), drifts, whole)

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """See `EventTransform.on_frames`. Drifts in time are rounded to whole frames."""
        return self.apply_frames(frames, self.draw_frames(frames, random))

    def _drift(self, of: Any, samples: Any, drifts: Drifts, whole: Fragments) -> Any:
        """B events or frames drifted by the module `of` operations on them."""
        functions = {
            "space": partial(of.drift_space, dx=drifts.dx, dy=drifts.dy),
            "velocity": partial(of.drift_velocity, vx=drifts.vx, vy=drifts.vy),
            "time": partial(of.drift_time, dt=drifts.dt),
        }
        fragments = whole if drifts.fragments is None else drifts.fragments
        for mode, chosen in occurring(np.broadcast_to(drifts.mode, len(whole.start))):
            if mode not in functions:
                raise ConfigError(f"EventDrift: no mode {mode!r}; known: {', '.join(functions)}.")
            part = fragments.only(chosen)
            samples = functions[mode](samples, fragments=part, border=self.border)
        return samples

    def _shares(self, draws: Draws) -> Draws:
        """Drifts in time as shares of the duration: (B,1), or (B,2) for OFF and ON."""
        share = between(draws[:, 4:6], -self.max_dt, self.max_dt)
        return share if self.per_polarity else share[:, :1]

    def _drifts(
        self,
        samples: EventBatch | Tensor,
        draws: Draws,
        dt: npt.NDArray[np.int64],
        height: int,
        width: int,
    ) -> Drifts:
        largest = self.max_shift * np.array([width, height])
        whole = np.floor(largest)
        shift = (np.floor(draws[:, 2:4] * (2 * whole + 1)) - whole).astype(np.int64)
        velocity = between(draws[:, 2:4], -largest, largest)
        return Drifts(
            drawn_modes(self.p, self.modes, draws),
            *shift.T,  # dx, dy
            *velocity.T,  # vx, vy
            dt=dt if self.per_polarity else dt[:, 0],
            fragments=self._fragments(samples, draws[:, 6:]),
        )


@dataclass(frozen=True)
class Compose(EventTransform):
    """Transforms one after the other, each with random numbers of its own."""

    steps: Sequence[EventTransform]
    """The transforms, first to last."""

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        for place, step in enumerate(self.steps):
            changed = step.on_batch(batch, replace(random, seed=fold_keys(random.seed, place)))
            batch = operations.keep_or_restore(batch, changed)
        return batch

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """See `EventTransform.on_frames`."""
        for place, step in enumerate(self.steps):
            frames = step.frames(frames, replace(random, seed=fold_keys(random.seed, place)))
        return frames


@dataclass(frozen=True)
class EventID(EventTransform):
    """EventReverse, then EventDrift, on whole recordings: version 2 of the paper.

    For digits: `EventID(EventReverse(modes=("time", "polarity")))`.
    """

    reverse: EventReverse = EventReverse()
    drift: EventDrift = EventDrift()

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        return self._both.on_batch(batch, random)

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """See `EventTransform.on_frames`."""
        return self._both.on_frames(frames, random)

    @property
    def _both(self) -> Compose:
        return Compose((self.reverse, self.drift))


@dataclass(frozen=True)
class ESTF(EventID):
    """EventReverse, then EventDrift, each on a fragment of its own: version 3 of the paper."""

    ratio: tuple[float, float] = (0.3, 1.0)
    """Length of the fragments as a share of the recording's; in place of the operators' own."""
    box: tuple[float, float] | None = None
    """Side of the fragments' boxes as a share of the sensor's; in place of the operators' own."""

    @property
    def _both(self) -> Compose:
        ours = {"ratio": self.ratio, "box": self.box}
        return Compose((replace(self.reverse, **ours), replace(self.drift, **ours)))
