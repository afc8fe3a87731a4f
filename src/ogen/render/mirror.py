"""The mirror's own nginx: its configuration and its unit, beside the release of the mirror's host."""

from __future__ import annotations

from .draft import CURRENT, Draft

SERVICE = f"{CURRENT}/mirror/ogen-mirror.service"
CONF = f"{CURRENT}/mirror/nginx.conf"


def is_mirror(draft: Draft) -> bool:
    mirror = draft.inventory.mirror
    return mirror is not None and mirror.host == draft.name


def mirror(draft: Draft) -> None:
    """For reading: a rollout sends both along, since it needs them before the release is in force."""
    settings, host = draft.inventory.mirror, draft.host
    assert settings
    allowed = draft.peers()
    values = {
        "port": settings.port,
        "allowed": allowed,
        "v6": any(":" in address for address in (*allowed, host.reached_at)),
        "user": host.ollama.user,
        "group": host.ollama.group,
        "models_dir": host.ollama.models_dir,
    }
    draft.add(SERVICE, draft.engine.render("mirror.service.j2", values, settings.where), settings.where)
    draft.add(CONF, draft.engine.render("mirror.nginx.conf.j2", values, settings.where), settings.where)
