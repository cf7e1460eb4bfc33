"""RELIANT: fair knowledge distillation for graph neural networks."""

from modicum.methods.reliant.checkpoints import load_official, soft_targets
from modicum.methods.reliant.graph import Graph
from modicum.methods.reliant.inference import evaluate, export, predict
from modicum.methods.reliant.losses import group_gap_loss, step_surrogate
from modicum.methods.reliant.messages import MessageGraph
from modicum.methods.reliant.metrics import evaluate_predictions
from modicum.methods.reliant.model import Distilled, NodeClassifier, Proxies
from modicum.methods.reliant.pareto import pareto
from modicum.methods.reliant.people import People, open_graph
from modicum.methods.reliant.recipes.distil import Config, distill, train
from modicum.methods.reliant.recipes.fairness import Fairness
from modicum.methods.reliant.recipes.teacher import Targets, Teacher
from modicum.methods.reliant.similarity import similarity_graph
from modicum.methods.reliant.sources import load_graph
from modicum.methods.reliant.students import PLP, GCNStudent, SGCStudent
from modicum.methods.reliant.tables import Table, read_table
from modicum.methods.reliant.teachers import APPNP, GAT, GCN, GCNII, SGC, GraphSAGE

__all__ = [
    "APPNP",
    "GAT",
    "GCN",
    "GCNII",
    "PLP",
    "SGC",
    "Config",
    "Distilled",
    "Fairness",
    "GCNStudent",
    "Graph",
    "GraphSAGE",
    "MessageGraph",
    "NodeClassifier",
    "People",
    "Proxies",
    "SGCStudent",
    "Table",
    "Targets",
    "Teacher",
    "distill",
    "evaluate",
    "evaluate_predictions",
    "export",
    "group_gap_loss",
    "load_graph",
    "load_official",
    "open_graph",
    "pareto",
    "predict",
    "read_table",
    "similarity_graph",
    "soft_targets",
    "step_surrogate",
    "train",
]
