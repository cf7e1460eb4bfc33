"""The contract a method fulfils: what its room offers, by name.

Nothing of a room is imported before it is asked for, so that a verb costs no more than what it
uses.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modicum.catalogue import find_card, room
from modicum.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from modicum.engine.options import RunOptions
    from modicum.engine.run import Run
    from modicum.weights.saved import SavedModel

Verb = Callable[..., Mapping[str, Any]]
"""A function whose signature is its command line and whose result, JSON-able, is what it prints."""


def _usual_options() -> RunOptions:
    from modicum.engine.options import RunOptions

    return RunOptions()


@dataclass(frozen=True)
class Preset:
    """A configuration with a name, and how to execute it."""

    about: str
    """One sentence, with the source of the numbers."""
    config: Any
    options: RunOptions = field(default_factory=_usual_options)


@dataclass(frozen=True)
class Recipe:
    """One way to train: a configuration, a loop, and presets."""

    config: type[Any]
    """A frozen dataclass of `modicum.options.Options`; its fields' docstrings are the help of
    `modicum train`."""
    train: Callable[[Any, Run], nn.Module]
    """Builds data, network and loss from a configuration, and trains in a run."""
    presets: Mapping[str, Preset]
    """Configurations by name. `default` is what `modicum train` starts from; `smoke` trains a few
    steps on built-in data in seconds."""


@dataclass(frozen=True)
class Method:
    """The names of what a room offers.

    Each is `module:name`; a module that begins with a dot lies in the room.
    """

    name: str
    """Key in the catalogue."""
    recipes: Mapping[str, str]
    """`Recipe` objects by name. A run of one may be what another of the method starts from."""
    verbs: Mapping[str, str]
    """`Verb` functions by name: `data`, which says what a data set holds and under `usable` whether
    `train` could use it; `evaluate`, `predict`, `export`; and the method's own."""
    network: str
    """Function that builds the network from the arguments stored in a file of weights, which are
    held to its annotations. What passes them on as `**arguments` calls
    `modicum.options.check_arguments` itself."""
    example: str
    """Function of a network of the method to small arguments it can be called with, the same every
    time."""
    model: str
    """Function of what `load_saved` takes to what people use in Python: the network, with its
    classes and its pipeline where it has these."""
    study: str
    """Function to the `modicum.claims.Study` of the paper's claims, on built-in data (None) or on
    the data set named."""
    datasets: str
    """Mapping of the field's data sets by name, with where to get each and how it must lie on
    disk."""
    notes: str = ""
    """`TypedDict` of what `train` stores beside the weights, which a file's notes are held to."""

    def load(self, what: str) -> Any:
        """What the room offers under the name of a field, such as `network` or `example`."""
        return self._named(getattr(self, what))

    def verb(self, name: str) -> Verb:
        """A verb of the method."""
        return self._named(self.verbs[name])

    def recipe(self, name: str | None = None) -> Recipe:
        """A recipe by its name, which is not needed where there is only one.

        Raises:
            ConfigError: There is no such recipe, or there are several.
        """
        if name is None and len(self.recipes) == 1:
            (name,) = self.recipes
        if name is None or name not in self.recipes:
            known = ", ".join(self.recipes)
            what = "needs the name of a recipe" if name is None else f"has no recipe {name!r}"
            raise ConfigError(f"{self.name} {what}. Known: {known}.")
        return self._named(self.recipes[name])

    def _named(self, reference: str) -> Any:
        module, name = reference.split(":")
        package = f"modicum.methods.{room(self.name)}"
        found = importlib.import_module(module, package)
        return functools.reduce(getattr, name.split("."), found)


def load_method(name: str) -> Method:
    """A method of the catalogue.

    Raises:
        ConfigError: There is no such method.
    """
    find_card(name)
    return importlib.import_module(f"modicum.methods.{room(name)}.method").METHOD


def load_saved(
    path: str | os.PathLike[str] | SavedModel, weights: str = "last", *, method: str | None = None
) -> SavedModel:
    """A network that `modicum.weights.saved.save_model` wrote, with its notes.

    Args:
        path: A `.safetensors` file or a run folder; or what this function gave, as it is.
        weights: For a run folder: `"last"` or `"best"`.
        method: If given, the method the file must be of.

    Raises:
        CheckpointError: The file is absent, damaged, not modicum's, or of another method.
    """
    from modicum.options import check_arguments
    from modicum.weights.saved import SavedModel, read_model

    if isinstance(path, SavedModel):
        return path

    def build(found: str, arguments: dict[str, Any]) -> nn.Module:
        return check_arguments(load_method(found).load("network"))(**arguments)

    def notes_of(found: str) -> Any:
        room = load_method(found)
        return room.load("notes") if room.notes else dict[str, Any]

    return read_model(Path(path), build, weights, method=method, notes_of=notes_of)


@dataclass(frozen=True)
class Trained:
    """A trained network, open for use: what it needs, and the verbs of its method as functions.

    Options of a verb are those of the command line, by the names of its parameters; results are
    numbers and records. A path may be text, and where several are taken one will do.
    """

    path: Path
    """The run folder or file of weights, which every verb reads anew."""
    weights: str
    """`last` or `best`."""

    @functools.cached_property
    def saved(self) -> SavedModel:
        """The network with its notes."""
        return load_saved(self.path, self.weights)

    @functools.cached_property
    def model(self) -> Any:
        """The network with all that its use needs, an object of the method's own.

        Of a classifier a `modicum.classification.Classifier`.
        """
        return load_method(self.saved.method).load("model")(self.saved)

    @property
    def network(self) -> nn.Module:
        """In eval mode, on the CPU."""
        return self.saved.module

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's outputs; none of what has none."""
        return tuple(self.saved.notes.get("classes", ()))

    @property
    def pipeline(self) -> Any:
        """Of a classifier, what makes samples the network's input: `read` and `batch`."""
        return self.model.pipeline

    def probabilities(self, samples: Any) -> Any:
        """Class probabilities `(N, classes)` of samples, one or several, as files or in memory.

        See the `model`; of a graph, probabilities `(nodes, classes)` by the name of the network.
        """
        return self.model.probabilities(samples)

    def predict(self, inputs: Any = None, **options: Any) -> Mapping[str, Any]:
        """Use the network on files, or on samples in memory where the method takes these.

        Args:
            inputs: A file or folder, or several where the method takes several; of a classifier
                also samples in memory: all that `pipeline.read` takes.
            **options: Of the method's `predict`.
        """
        return self._call("predict", inputs, options)

    def evaluate(
        self, data: str | os.PathLike[str] | None = None, **options: Any
    ) -> Mapping[str, Any]:
        """Measure the network on labelled data; None: what the method's `evaluate` takes then."""
        given = {} if data is None else {"data": data}
        return self._call("evaluate", None, given | options)

    def export(self, **options: Any) -> Mapping[str, Any]:
        """Write the network for deployment."""
        return self._call("export", None, options)

    def _call(self, verb: str, inputs: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        from modicum.options import check_arguments

        function = load_method(self.saved.method).verb(verb)
        parameters = inspect.signature(function).parameters
        given: dict[str, Any] = {"run": self.path}
        if "weights" in parameters:
            given["weights"] = self.weights
        if inputs is not None:
            given[next(name for name in parameters if name != "run")] = inputs
        return check_arguments(function)(**given | dict(options))
