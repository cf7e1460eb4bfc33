"""RELIANT: fair knowledge distillation for graph neural networks."""

from modicum.methods.reliant.checkpoints import load_official, soft_targets
from modicum.methods.reliant.graph import Graph
from modicum.methods.reliant.inference import evaluate, export, predict
from modicum.methods.reliant.losses import group_gap_loss, step_surrogate
from modicum.methods.reliant.messages import MessageGraph
from modicum.methods.reliant.metrics import evaluate_predictions
from modicum.methods.reliant.model import Distilled, NodeClassifier, Proxies
from modicum.methods.reliant.pareto import pareto
from modicum.methods.reliant.similarity import similarity_graph
from modicum.methods.reliant.sources import load_graph
from modicum.methods.reliant.students import PLP, GCNStudent, SGCStudent
from modicum.methods.reliant.tables import read_table
from modicum.methods.reliant.teachers import APPNP, GAT, GCN, GCNII, SGC, GraphSAGE
from modicum.methods.reliant.train import Config, distill, train

__all__ = [
    "APPNP",
    "GAT",
    "GCN",
    "GCNII",
    "PLP",
    "SGC",
    "Config",
    "Distilled",
    "GCNStudent",
    "Graph",
    "GraphSAGE",
    "MessageGraph",
    "NodeClassifier",
    "Proxies",
    "SGCStudent",
    "distill",
    "evaluate",
    "evaluate_predictions",
    "export",
    "group_gap_loss",
    "load_graph",
    "load_official",
    "pareto",
    "predict",
    "read_table",
    "similarity_graph",
    "soft_targets",
    "step_surrogate",
    "train",
]
