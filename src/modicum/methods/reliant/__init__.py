"""RELIANT: fair knowledge distillation for graph neural networks.

What `train` left is used so:

    trained = modicum.open("runs/people")
    trained.predict("applicants.csv")["predictions"]
    trained.probabilities(trained.model.open_graph())["reliant"]  # (people, classes)
"""

from modicum.methods.reliant.checkpoints import load_official, soft_targets
from modicum.methods.reliant.data.people import People, open_graph
from modicum.methods.reliant.data.similarity import similarity_graph
from modicum.methods.reliant.data.sources import load_graph
from modicum.methods.reliant.data.tables import Table, read_table
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.methods.reliant.inference import Trained, evaluate, export, predict
from modicum.methods.reliant.losses import group_gap_loss, step_surrogate
from modicum.methods.reliant.metrics import evaluate_predictions
from modicum.methods.reliant.networks.distilled import Distilled, NodeClassifier, Proxies
from modicum.methods.reliant.networks.students import PLP, GCNStudent, SGCStudent
from modicum.methods.reliant.networks.teachers import APPNP, GAT, GCN, GCNII, SGC, GraphSAGE
from modicum.methods.reliant.pareto import pareto
from modicum.methods.reliant.recipes.distil import Config, distill, train
from modicum.methods.reliant.recipes.fairness import Fairness
from modicum.methods.reliant.recipes.teacher import Targets, Teacher

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
    "Trained",
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
