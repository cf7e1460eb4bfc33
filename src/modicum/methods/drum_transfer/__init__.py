"""Language-to-music transfer: a language model becomes a drummer.

What `train` left is used so:

    from modicum.methods.drum_transfer import read_midi, to_prompt
    drummer = modicum.open("runs/drums").model  # or Drummer.load(None, "ngram")
    groove = read_midi("groove.mid", drummer.config.corpus)
    drummer.complete([to_prompt(groove)], groove.notation, bars=2)
"""

from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.data.sources import load_grooves
from modicum.methods.drum_transfer.losses import completion_nats, record_loss, token_nats
from modicum.methods.drum_transfer.metrics.measures import Reference, duplication, score, validity
from modicum.methods.drum_transfer.metrics.structure import stability, structure, two_means
from modicum.methods.drum_transfer.model_folders import find_model
from modicum.methods.drum_transfer.models.baselines import Baseline, NGram, Random, Repeat
from modicum.methods.drum_transfer.models.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.models.drummer import Drummer
from modicum.methods.drum_transfer.models.generate import generate
from modicum.methods.drum_transfer.models.grammar import Grammar
from modicum.methods.drum_transfer.models.language_models import (
    LanguageModel,
    Lora,
    load_language_model,
)
from modicum.methods.drum_transfer.models.remote import continue_groove
from modicum.methods.drum_transfer.models.server import Server
from modicum.methods.drum_transfer.models.vocabulary import Characters, Subwords, Vocabulary
from modicum.methods.drum_transfer.options import Corpus, Reading, Sampling
from modicum.methods.drum_transfer.rendering.synthesis import render, write_wav
from modicum.methods.drum_transfer.text.drumroll import (
    Record,
    convert,
    to_hits,
    to_prompt,
    to_record,
    to_text,
    windows,
    without_separators,
)
from modicum.methods.drum_transfer.text.midi import read_midi, write_midi
from modicum.methods.drum_transfer.text.notation import DRUMROLL, NOTATIONS, Groove, Notation
from modicum.methods.drum_transfer.text.tablature import from_tablature, to_tablature
from modicum.methods.drum_transfer.train import Config, train
from modicum.methods.drum_transfer.verbs.analyse import Analysis, analyse
from modicum.methods.drum_transfer.verbs.evaluate import evaluate
from modicum.methods.drum_transfer.verbs.export import export
from modicum.methods.drum_transfer.verbs.listen import listen
from modicum.methods.drum_transfer.verbs.predict import predict

__all__ = [
    "DRUMROLL", "NOTATIONS", "Analysis", "Baseline", "CausalModel", "Characters", "Config",
    "Corpus", "Decoder", "Drummer", "Grammar", "Groove", "LanguageModel", "Lora", "NGram",
    "Notation", "Random", "Reading", "Record", "Reference", "Repeat", "Sampling", "Server",
    "Subwords", "Vocabulary", "analyse", "completion_nats", "continue_groove", "convert",
    "duplication", "evaluate", "export", "find_model", "from_tablature", "generate", "listen",
    "load_grooves", "load_language_model", "made_up_grooves", "predict", "read_midi",
    "record_loss", "render", "score", "stability", "structure", "to_hits", "to_prompt",
    "to_record", "to_tablature", "to_text", "token_nats", "train", "two_means", "validity",
    "windows", "without_separators", "write_midi", "write_wav",
]  # fmt: skip
