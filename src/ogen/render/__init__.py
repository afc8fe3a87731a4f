"""`Plan` to `Release`: nginx, systemd units, Modelfiles, scripts, through `templates/`."""

from .fleet import render, render_host
from .keys import Reveal

__all__ = ["Reveal", "render", "render_host"]
