"""The system's own ssh client as the carrier: for security keys, GSSAPI and configurations of any kind."""

from __future__ import annotations

from pathlib import Path

from ..inventory.model import Host
from .access import Keyring


def command(host: Host, line: str, keyring: Keyring) -> list[str]:
    """The client's command line; it asks nothing, and checks host keys strictly."""
    ssh = host.ssh
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": str(max(1, round(ssh.connect_timeout))),
        "ServerAliveInterval": "15",
        "ControlMaster": "no",
        "LogLevel": "ERROR",
        "UserKnownHostsFile": " ".join(f'"{p}"' for p in keyring.files()),
    }
    words = ["ssh", "-T", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    words += ["-p", str(ssh.port)] if ssh.port else []
    words += ["-l", ssh.user] if ssh.user else []
    words += (
        ["-i", str(Path(keyring.folder, ssh.key).expanduser()), "-o", "IdentitiesOnly=yes"] if ssh.key else []
    )
    words += ["-J", ssh.proxy_jump] if ssh.proxy_jump else []
    return [*words, "--", host.address, line]
