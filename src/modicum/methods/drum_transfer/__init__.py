"""Language-to-music transfer: a language model becomes a drummer."""

from modicum.methods.drum_transfer.analyse import Analysis, analyse
from modicum.methods.drum_transfer.baselines import Baseline, NGram, Random, Repeat
from modicum.methods.drum_transfer.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.drummer import Drummer
from modicum.methods.drum_transfer.drumroll import (
    Record,
    convert,
    to_hits,
    to_prompt,
    to_record,
    to_text,
    windows,
    without_separators,
)
from modicum.methods.drum_transfer.evaluate import evaluate
from modicum.methods.drum_transfer.export import export
from modicum.methods.drum_transfer.generate import generate
from modicum.methods.drum_transfer.generator import made_up_grooves
from modicum.methods.drum_transfer.grammar import Grammar
from modicum.methods.drum_transfer.language_models import LanguageModel, Lora, load_language_model
from modicum.methods.drum_transfer.listen import listen
from modicum.methods.drum_transfer.losses import completion_nats, record_loss, token_nats
from modicum.methods.drum_transfer.measures import Reference, duplication, score, validity
from modicum.methods.drum_transfer.midi import read_midi, write_midi
from modicum.methods.drum_transfer.notation import DRUMROLL, NOTATIONS, Groove, Notation
from modicum.methods.drum_transfer.options import Corpus, Reading, Sampling
from modicum.methods.drum_transfer.predict import predict
from modicum.methods.drum_transfer.remote import Server, continue_groove
from modicum.methods.drum_transfer.sources import load_grooves
from modicum.methods.drum_transfer.structure import stability, structure, two_means
from modicum.methods.drum_transfer.synthesis import render, write_wav
from modicum.methods.drum_transfer.tablature import from_tablature, to_tablature
from modicum.methods.drum_transfer.train import Config, train
from modicum.methods.drum_transfer.vocabulary import Characters, Subwords, Vocabulary

__all__ = [
    "DRUMROLL",
    "NOTATIONS",
    "Analysis",
    "Baseline",
    "CausalModel",
    "Characters",
    "Config",
    "Corpus",
    "Decoder",
    "Drummer",
    "Grammar",
    "Groove",
    "LanguageModel",
    "Lora",
    "NGram",
    "Notation",
    "Random",
    "Reading",
    "Record",
    "Reference",
    "Repeat",
    "Sampling",
    "Server",
    "Subwords",
    "Vocabulary",
    "analyse",
    "completion_nats",
    "continue_groove",
    "convert",
    "duplication",
    "evaluate",
    "export",
    "from_tablature",
    "generate",
    "listen",
    "load_grooves",
    "load_language_model",
    "made_up_grooves",
    "predict",
    "read_midi",
    "record_loss",
    "render",
    "score",
    "stability",
    "structure",
    "to_hits",
    "to_prompt",
    "to_record",
    "to_tablature",
    "to_text",
    "token_nats",
    "train",
    "two_means",
    "validity",
    "windows",
    "without_separators",
    "write_midi",
    "write_wav",
]
