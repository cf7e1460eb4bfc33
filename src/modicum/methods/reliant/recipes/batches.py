"""An epoch of a decoupled student on batches of nodes, for graphs a full batch has no room for.

Its propagated features are written to disk once, and a batch reads its rows from there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.losses import distillation_loss, step_surrogate
from modicum.methods.reliant.networks.students import DecoupledStudent, hops_of
from modicum.methods.reliant.recipes.epochs import Student, frozen
from modicum.methods.reliant.recipes.fairness import FairnessTerm
from modicum.methods.reliant.recipes.teacher import Targets
from modicum.methods.reliant.recipes.training import Step

COLUMNS_AT_A_TIME = 64
"""Columns that are propagated together, which bounds the memory it takes."""


class PropagatedFeatures:
    """`[X, A X, …, A^k X]`, `(N, F * (k + 1))` float32, mapped from a file rather than read.

    Args:
        path: File to write, replaced if it is there.
        graph: The whole graph.
        student: With a `DecoupledStudent`; X are its features, k its hops.
        batch_size: Nodes at a time.
    """

    def __init__(self, path: Path, graph: Graph, student: Student, batch_size: int) -> None:
        assert isinstance(student.network, DecoupledStudent)
        hops, features = student.network.hops, student.features
        nodes, columns = features.shape
        self._path, self._graph, self.batch_size = path, graph, batch_size
        # Of this process alone, and made anew by every session: it need not be written atomically.
        self._mapped = np.memmap(path, np.float32, "w+", shape=(nodes, columns * (hops + 1)))
        for start in range(0, columns, COLUMNS_AT_A_TIME):
            part = features[:, start : start + COLUMNS_AT_A_TIME]
            for hop, values in enumerate(hops_of(graph, part, hops)):
                place = hop * columns + start
                self._mapped[:, place : place + part.shape[1]] = values.cpu().numpy()

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows `(B, F * (k + 1))` of the nodes `index`, `(B,)`."""
        return torch.from_numpy(self._mapped[index.cpu().numpy()]).to(self._graph.device)

    @torch.no_grad()
    def predict(self, student: Student, *, own_proxies: bool = False) -> Tensor:
        """Class probabilities `(N, C)`, each node with the mean proxy or with its own."""
        student.network.eval()
        found: list[Tensor] = []
        for index in torch.arange(self._graph.nodes, device=self._graph.device).split(
            self.batch_size
        ):
            if own_proxies and student.proxies is not None:
                seen = student.proxies.rows[index]
            else:
                seen = student.proxy_rows(self._graph, index, predicting=True)
            found.append(student.rows_logits(self[index], seen).softmax(1))
        return torch.cat(found)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


class RunningGap:
    """The fairness term of a batch, its group means those of all nodes.

    What the surrogate says of every node is worked out when an epoch begins, and again for the
    nodes of each batch. Sums over a group are therefore exact for the nodes of the batch and a
    little stale for the others. Those have no gradient: that of the batch is scaled up to stand
    for it, as CPF's distance is, so that a weight means the same at every size of batch (inferred).

    Args:
        fairness: The term, and its groups.
        nodes: I_S or I_P, node numbers.
        probabilities: `(N, C)`, of all nodes, as the epoch begins.
    """

    def __init__(self, fairness: FairnessTerm, nodes: Tensor, probabilities: Tensor) -> None:
        self._fairness = fairness
        inside = torch.zeros(len(probabilities), dtype=torch.bool, device=nodes.device)
        inside[nodes] = True
        if fairness.positive is not None:
            inside &= fairness.positive
        # (N, groups): 1 / size of its group for each node of the index, 0 elsewhere.
        member = nn.functional.one_hot(fairness.groups, len(fairness.names)) * inside[:, None]
        self._share = member / member.sum(0).clamp(min=1)
        self._values = step_surrogate(probabilities, **fairness.surrogate)
        self._means = self._share.T @ self._values

    def __call__(self, probabilities: Tensor, index: Tensor) -> Tensor:
        """The weighted gap, a scalar; `probabilities` are those of the nodes `index`."""
        values = step_surrogate(probabilities, **self._fairness.surrogate)
        change = self._share[index].T @ (values - self._values[index])
        gradient = (change - change.detach()) * (len(self._values) / len(index))  # 0, but for that
        means = self._means + change.detach() + gradient
        self._means, self._values[index] = means.detach(), values.detach()
        return self._fairness.alpha * (means.amax(0) - means.amin(0)).square().sum()


def batches_epoch(
    graph: Graph,
    rows: PropagatedFeatures,
    student: Student,
    targets: Targets,
    fairness: FairnessTerm | None,
    step: Step,
    order: Tensor,
) -> dict[str, Tensor]:
    """One epoch of RELIANT over batches of the nodes in `order`, `(N,)` on any device.

    The distance to the teacher is that of CPF over the batch, scaled up to all nodes, and training
    nodes add the cross entropy of their labels (inferred: CPF's own student knows them).

    Returns:
        Means of the terms over the batches, detached scalars.
    """
    network, proxies, proxy_optimizer = student.network, student.proxies, student.proxy_optimizer
    gap = own_gap = None
    if fairness is not None:
        p = rows.predict(student)
        fairness(p, fairness.student_nodes)  # it refuses groups that are empty
        gap = RunningGap(fairness, fairness.student_nodes, p)
        if proxies is not None and proxy_optimizer is not None:
            p = rows.predict(student, own_proxies=True)
            own_gap = RunningGap(fairness, fairness.proxy_nodes, p)
    network.train()
    training = graph.training
    outside = float((~training).sum())
    sums: dict[str, Tensor] = {}
    batches = order.to(graph.device).split(rows.batch_size)
    for index in batches:
        h = rows[index]
        logits = student.rows_logits(h, student.proxy_rows(graph, index))
        p = logits.softmax(1)
        known = training[index].nonzero().flatten()
        others = (~training[index]).nonzero().flatten()
        terms: dict[str, Tensor] = {}
        if len(others):
            distance = distillation_loss(p, targets.probabilities[index], others)
            terms["distance"] = distance * (outside / len(others)) ** 0.5
        if len(known):
            labels = graph.labels[index[known]]
            terms["labels"] = nn.functional.cross_entropy(logits[known], labels)
        if gap is not None:
            terms["fairness"] = gap(p, index)
        step(terms, student.optimizer)
        if own_gap is not None and proxies is not None and proxy_optimizer is not None:
            with frozen(network):
                p = student.rows_logits(h, proxies.rows[index]).softmax(1)
                terms["proxy"] = -own_gap(p, index)
                step({"proxy": terms["proxy"]}, proxy_optimizer)
        for name, term in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(term.detach())) + term.detach()
    return {name: total / len(batches) for name, total in sums.items()}
