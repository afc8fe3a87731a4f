"""ogen: one reviewed inventory of hosts and GPUs becomes a running Ollama cluster."""

__version__ = "0.1.0"
