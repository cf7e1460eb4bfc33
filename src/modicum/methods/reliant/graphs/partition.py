"""Full-batch training of one graph by several processes, each of which holds some of its nodes.

A process keeps the rows of its own nodes: features, edges into them, proxies, balances. Before a
product it fetches the rows of other nodes that its edges come from (the halo), and gradients go
back the same way.

The nodes are divided in parts, and a process may hold several. Columns of a matrix are in the order
of the parts, and random numbers are drawn by part, so that the same parts give the same numbers up
to rounding however many processes share them.

Derivatives: the processes compute the same loss, each from its part, and autograd on them all
together differentiates the sum of their losses. That is the number of processes times too much,
which `complete_gradients` sets right. Sums over processes may therefore stand anywhere in a loss,
also inside of others.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from modicum.engine.distributed import SumOverProcesses
from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.messages import MessageGraph, draw_kept

if TYPE_CHECKING:
    from scipy import sparse

_Module = TypeVar("_Module", bound=nn.Module)
_Rows = Callable[[Graph, Tensor], Tensor]


def divide(graph: Graph, parts: int) -> Tensor:
    """Which part each node belongs to. Of several processes the first divides and tells the others.

    By the library pymetis, if it is installed: few edges between parts of about equal size. Else
    equally many nodes a part, consecutive in the reverse Cuthill-McKee order, which goes breadth
    first.

    Returns:
        `(N,)`, int64, 0..P-1 of P `parts`, on the CPU. No part is empty.

    Raises:
        ConfigError: There are fewer nodes than parts, or a part would be empty.
    """
    if not 1 <= parts <= graph.nodes:
        raise ConfigError(
            f"--parts {parts}: must be at least 1 and at most the {graph.nodes} nodes of the graph."
        )
    by = _by_blocks if importlib.util.find_spec("pymetis") is None else _by_metis
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = not several or torch.distributed.get_rank() == 0
    told: list[Any] = [by(graph.messages, parts) if first else None]
    if several:
        torch.distributed.broadcast_object_list(told)
    assignment = torch.as_tensor(np.asarray(told[0], np.int64))
    sizes = torch.bincount(assignment, minlength=parts)
    if not bool(sizes.all()):
        raise ConfigError(
            f"--parts {parts}: dividing the {graph.nodes} nodes leaves part {int(sizes.argmin())} "
            f"empty. Choose fewer parts."
        )
    return assignment


def _by_metis(messages: MessageGraph, parts: int) -> Sequence[int]:
    pymetis: Any = importlib.import_module("pymetis")
    neighbours = _neighbours(messages)
    adjacency = pymetis.CSRAdjacency(neighbours.indptr, neighbours.indices)
    return pymetis.part_graph(parts, adjacency, options=pymetis.Options(seed=0)).vertex_part


def _by_blocks(messages: MessageGraph, parts: int) -> npt.NDArray[np.int64]:
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    order = reverse_cuthill_mckee(_neighbours(messages), symmetric_mode=True)
    found = np.empty(messages.nodes, np.int64)
    found[order] = np.arange(messages.nodes) * parts // messages.nodes
    return found


def _neighbours(messages: MessageGraph) -> sparse.csr_array:
    """Who is connected with whom, in either direction and not with oneself."""
    from scipy import sparse

    source, target = messages.sources.cpu().numpy(), messages.targets.cpu().numpy()
    source, target = source[source != target], target[source != target]
    ones = np.ones(len(source), np.int8)
    matrix = sparse.csr_array((ones, (target, source)), shape=(messages.nodes,) * 2)
    return matrix if messages.symmetric else sparse.csr_array(matrix + matrix.T)


def part_of(graph: Graph, assignment: Tensor, rank: int = 0, world: int = 1) -> Graph:
    """The graph as one of several processes holds it, its nodes in the order of their parts.

    Args:
        graph: The whole graph. It can be dropped afterwards.
        assignment: `(N,)`, int64: the part of each node, of `divide`.
        rank: Which process. It holds the parts `rank`, `rank + world`, ….
        world: Number of processes; one holds all parts.

    Returns:
        Its nodes, numbered from 0, and a `PartitionedMessageGraph`. A split may be empty.

    Raises:
        ConfigError: A process would hold no node.
        DataError: `assignment` does not fit the graph.
    """
    if assignment.shape != (graph.nodes,) or int(assignment.min()) < 0:
        raise DataError(
            f"{graph.name}: expected a part, from 0, for each of {graph.nodes} nodes, found the "
            f"shape {tuple(assignment.shape)} and parts from {int(assignment.min())}."
        )
    assignment = assignment.to(graph.device)
    if not bool(torch.bincount(assignment % world, minlength=world).all()):
        raise ConfigError(
            f"--parts {int(assignment.max()) + 1}: too few for {world} processes, each of which "
            f"must hold some. Choose at least {world}."
        )
    messages = PartitionedMessageGraph(graph.messages, assignment, rank, world)
    local = torch.full_like(assignment, -1)
    local[messages.numbers] = torch.arange(messages.nodes, device=graph.device)
    # Not dataclasses.replace: the graph of a table has more that is by node.
    fields: dict[str, Any] = {f.name: getattr(graph, f.name) for f in dataclasses.fields(Graph)}
    for name in ("features", "labels", "sensitive"):
        if fields[name] is not None:
            fields[name] = fields[name][messages.numbers]
    for name in ("train", "val", "test"):
        numbers = local[fields[name]]
        fields[name] = numbers[numbers >= 0]
    fields["messages"] = messages
    return Graph(**fields)


class PartitionedMessageGraph(MessageGraph):
    """The edges into the nodes that one process holds; the arguments are those of `part_of`.

    Its methods must be called by all processes, in the same order: most of them communicate.

    Attributes:
        nodes: n, the nodes it holds. N in the shapes of `MessageGraph`.
        numbers: `(n,)`, int64: their numbers in the whole graph.
        total_nodes: N, the nodes of the whole graph.
        world: Number of processes.
    """

    def __init__(
        self, whole: MessageGraph, assignment: Tensor, rank: int = 0, world: int = 1
    ) -> None:
        nodes, parts = whole.nodes, int(assignment.max()) + 1
        self.total_nodes, self.world = nodes, world

        order = assignment.argsort(stable=True)
        holder = assignment % world
        own = holder == rank
        self.numbers = order[own[order]]
        self._out_degree = whole.out_degree[self.numbers]
        source, target = whole.sources, whole.targets

        # Columns: own nodes and the halo, in the order of parts, whoever holds them.
        inside = own[target]
        visible = own.clone()
        visible[source[inside]] = True
        columns = order[visible[order]]
        width = len(columns)
        row, column = _inverse(self.numbers, nodes), _inverse(columns, nodes)
        entries = (row[target[inside]] * width + column[source[inside]]).sort().values
        starts = torch.arange(len(self.numbers) + 1, device=entries.device) * width
        self._store(torch.searchsorted(entries, starts), entries % width, width)
        self._lonely = whole._lonely

        # What is sent: own nodes that others have in their halo, by process, then in `order`.
        leaving = own[source] & ~own[target]
        sent = holder[target[leaving]] * nodes + _inverse(order, nodes)[source[leaving]]
        sent = sent.unique()
        self._sent = row[order[sent % nodes]]
        self._send_counts = _counts(sent // nodes, world)
        self._receive_counts = _counts(holder[columns[~own[columns]]], world)

        # Columns come in blocks, one a part. Those of the halo are received by process.
        self._blocks = _counts(assignment[columns], parts)
        self._own_blocks = list(range(rank, parts, world))
        self._halo_blocks = [
            part for other in range(world) for part in range(other, parts, world) if other != rank
        ]
        self._rows_of_parts = [self._blocks[part] for part in self._own_blocks]
        ends = np.cumsum([0, *self._rows_of_parts])
        self._edges_of_parts: list[int] = self.row_pointers[ends].diff().tolist()
        self.seed(0)

    def to(self, device: torch.device | str) -> MessageGraph:
        """The same on a device, with the random numbers of the key it was last given."""
        moved = super().to(device)
        if moved is not self:
            moved.seed(self._key)
        return moved

    def seed(self, key: int) -> None:
        """Begin the random numbers of a step. They are a function of `key` and the part."""
        self._key = key
        self._generators = [
            torch.Generator(self.device).manual_seed(fold_keys(key, part) >> 1)
            for part in self._own_blocks
        ]

    @property
    def out_degree(self) -> Tensor:
        """`(n,)`, float32: edges out of each node, also to nodes of other processes."""
        return self._out_degree

    def keep(self, shape: Sequence[int], p: float) -> Tensor:
        """As of `MessageGraph`, drawn by part."""
        return self._keep_by_part([(rows, *shape[1:]) for rows in self._rows_of_parts], p)

    def keep_edges(self, p: float) -> Tensor:
        """As of `MessageGraph`, drawn by part."""
        return self._keep_by_part([(edges,) for edges in self._edges_of_parts], p)

    def _keep_by_part(self, shapes: Sequence[Sequence[int]], p: float) -> Tensor:
        drawn = zip(shapes, self._generators, strict=True)
        return torch.cat([draw_kept(shape, p, self.device, of_part) for shape, of_part in drawn])

    def gather(self, x: Tensor) -> Tensor:
        """`(width, C)` of `(n, C)`: the row of each column, from its process. Differentiable."""
        return x if self.world == 1 else _Gather.apply(x, self)

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over the processes; its derivative is the sum of theirs."""
        return x if self.world == 1 else SumOverProcesses.apply(x)

    def maximum(self, x: Tensor) -> Tensor:
        """The largest number of `x` on all processes, a scalar without gradient."""
        largest = x.detach().max()
        if self.world > 1:
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return largest

    def fetch_halo(self, x: Tensor) -> Tensor:
        """`(width, C)` of `(n, C)`, without gradient."""
        halo = x.new_empty(self.width - self.nodes, *x.shape[1:])
        torch.distributed.all_to_all_single(
            halo, x.index_select(0, self._sent), self._receive_counts, self._send_counts
        )
        blocks = dict(zip(self._own_blocks, x.split(self._rows_of_parts), strict=True))
        sizes = [self._blocks[part] for part in self._halo_blocks]
        blocks |= zip(self._halo_blocks, halo.split(sizes), strict=True)
        return torch.cat([blocks[part] for part in range(len(self._blocks))])

    def return_halo(self, gathered: Tensor) -> Tensor:
        """`(n, C)` of `(width, C)`, the transpose of `fetch_halo`: rows go back and are added."""
        blocks = gathered.split(self._blocks)
        halo = torch.cat([blocks[part] for part in self._halo_blocks])
        returned = halo.new_empty(len(self._sent), *halo.shape[1:])
        torch.distributed.all_to_all_single(returned, halo, self._send_counts, self._receive_counts)
        own = torch.cat([blocks[part] for part in self._own_blocks])
        return own.index_add_(0, self._sent, returned)


class _Gather(torch.autograd.Function):
    """Rows of the halo on the way there, their gradients on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, messages: PartitionedMessageGraph) -> Tensor:
        ctx.messages = messages
        return messages.fetch_halo(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return ctx.messages.return_halo(gradients[0]), None


def _inverse(numbers: Tensor, nodes: int) -> Tensor:
    """`(nodes,)`: where in `numbers` a node is, undefined where it is not."""
    found = numbers.new_zeros(nodes)
    found[numbers] = torch.arange(len(numbers), device=numbers.device)
    return found


def _counts(values: Tensor, length: int) -> list[int]:
    return torch.bincount(values, minlength=length).tolist()


# What has a row a node


def collect(graph: Graph, x: Tensor) -> Tensor:
    """Rows of all nodes `(N, ...)` on every process, from the rows `(n, ...)` each has of its own.

    They are in the order of the whole graph, without gradient; `x` where the graph is whole.
    """
    messages = graph.messages
    x = x.detach()
    if not isinstance(messages, PartitionedMessageGraph):
        return x
    rows = x.new_zeros(messages.total_nodes, *x.shape[1:])
    rows[messages.numbers] = x
    if messages.world > 1:  # zeros where others have rows
        torch.distributed.all_reduce(rows)
    return rows


def own_rows(graph: Graph, x: Tensor) -> Tensor:
    """The reverse of `collect`: of the rows of all nodes, `(N, ...)`, those of this process.

    A `DataError` is raised if `x` has not a row a node.
    """
    messages = graph.messages
    if not isinstance(messages, PartitionedMessageGraph):
        return x
    if len(x) != messages.total_nodes:
        raise DataError(
            f"{graph.name}: expected a row for each of {messages.total_nodes} nodes, found "
            f"{len(x)}. They are of another graph."
        )
    return x[messages.numbers.to(x.device)]


def node_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters with a row a node (a module's `by_node`), by their names in the state dict."""
    return {
        f"{prefix}.{name}" if prefix else name: child.get_parameter(name)
        for prefix, child in module.named_modules()
        for name in getattr(child, "by_node", ())
    }


def keep_own_rows(graph: Graph, module: nn.Module) -> None:
    """Leave of a module for all nodes what belongs to those of this process, in place.

    Built for all nodes on every process, from the same seed, modules start with the same numbers
    however many processes there are.
    """
    for parameter in node_parameters(module).values():
        parameter.data = own_rows(graph, parameter.data)


def collected(graph: Graph, module: _Module) -> _Module:
    """A copy of a module with the rows of all nodes, on every process."""
    whole = copy.deepcopy(module)
    for parameter in node_parameters(whole).values():
        parameter.data = collect(graph, parameter.data)
    return whole


class ModuleState:
    """What a checkpoint holds of a module some of whose rows lie with their nodes.

    For `Run.register`. The state is that of the whole graph, so that a run can go on with another
    number of processes. All processes must ask for it.
    """

    def __init__(self, graph: Graph, module: nn.Module) -> None:
        self._graph = graph
        self._kept: nn.Module | Optimizer = module
        self._by_node: set[Any] = set(node_parameters(module))

    def state_dict(self) -> dict[str, Any]:
        """The state of what is kept, with the rows of all nodes."""
        return self._with_rows(self._kept.state_dict(), collect)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` returned, of which the rows of this process are kept."""
        self._kept.load_state_dict(self._with_rows(state, own_rows))

    def _with_rows(self, state: Mapping[str, Any], rows: _Rows) -> dict[str, Any]:
        return {n: rows(self._graph, v) if n in self._by_node else v for n, v in state.items()}


class OptimizerState(ModuleState):
    """As `ModuleState`, of the module's optimizer, whose state is elementwise, as Adam's is."""

    def __init__(self, graph: Graph, module: nn.Module, optimizer: Optimizer) -> None:
        self._graph, self._kept = graph, optimizer
        of_nodes = set(map(id, node_parameters(module).values()))
        # State dicts know parameters by their place.
        self._by_node = {n for n, p in enumerate(_parameters(optimizer)) if id(p) in of_nodes}

    def _with_rows(self, state: Mapping[str, Any], rows: _Rows) -> dict[str, Any]:
        def convert(value: Any) -> Any:  # Adam counts its steps in a scalar
            by_row = isinstance(value, Tensor) and value.dim() > 0
            return rows(self._graph, value) if by_row else value

        of_parameters = {
            place: {n: convert(v) for n, v in values.items()} if place in self._by_node else values
            for place, values in state["state"].items()
        }
        return {**state, "state": of_parameters}


def complete_gradients(graph: Graph, module: nn.Module, optimizer: Optimizer) -> Tensor | None:
    """Make of what autograd left on each process the gradient of the one loss; for `Run.step`.

    Parameters that every process has get the mean of their gradients, and rows of nodes, whose
    gradients all processes have added to, are divided by the number of processes.

    Returns:
        L2 norm of the gradient over all processes, a scalar; None where one process has it all.
    """
    messages = graph.messages
    if not isinstance(messages, PartitionedMessageGraph) or messages.world == 1:
        return None
    of_nodes = set(map(id, node_parameters(module).values()))
    found = [(id(p) in of_nodes, p.grad) for p in _parameters(optimizer) if p.grad is not None]
    own, shared = ([g for by_node, g in found if by_node == which] for which in (True, False))
    # In float64, whose squares do not overflow.
    squares = torch.zeros(1, dtype=torch.float64, device=graph.device)
    for gradient in own:
        squares += gradient.div_(messages.world).double().square().sum()
    flat = torch.cat([*(gradient.double().flatten() for gradient in shared), squares])
    torch.distributed.all_reduce(flat)
    mean = flat[:-1] / messages.world
    norm = (mean.square().sum() + flat[-1]).sqrt()
    sizes = [gradient.numel() for gradient in shared]
    for gradient, values in zip(shared, mean.split(sizes), strict=True):
        gradient.copy_(values.view_as(gradient))
    # What is not finite on one process must be so on all: they would part ways.
    for gradient in (*shared, *own):
        gradient += (norm - norm).to(gradient.dtype)
    return norm


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
