"""VRAM arithmetic and the ladder of concessions: pure numbers."""

from .account import account
from .ladder import below, choose, wished_settings
from .levers import modelfile_parameters, unit_environment
from .model import Account, Backend, Card, Concession, KvType, Settings, Split, Verdict
from .prediction import evicts, predicted_by_ollama
from .wishes import ORDER, Choice, DoesNotFit, Wishes

__all__ = [
    "ORDER",
    "Account",
    "Backend",
    "Card",
    "Choice",
    "Concession",
    "DoesNotFit",
    "KvType",
    "Settings",
    "Split",
    "Verdict",
    "Wishes",
    "account",
    "below",
    "choose",
    "evicts",
    "modelfile_parameters",
    "predicted_by_ollama",
    "unit_environment",
    "wished_settings",
]
