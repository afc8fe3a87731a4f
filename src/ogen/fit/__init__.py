"""VRAM arithmetic and the ladder of concessions: pure numbers."""

from .model import Account, Backend, Card, Concession, KvType, Settings, Verdict

__all__ = ["Account", "Backend", "Card", "Concession", "KvType", "Settings", "Verdict"]
