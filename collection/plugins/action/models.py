"""ogen.fleet.models on the control machine: sends files that models are made from."""

from __future__ import annotations

from typing import Any

from ansible_collections.ogen.fleet.plugins.plugin_utils.sending import Sender


class ActionModule(Sender):
    """Looks first; a host that has all models costs this one look."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec({"src": {"type": "path", "required": True}})
        folder = self.folder(args["src"], task_vars or {})
        if not folder.manifest["models"]:
            return {"changed": False, "models": []}
        told = {"step": "look", "manifest": folder.manifest}
        found = self.ask(args, told, task_vars)
        wanted = found.pop("files")
        if found["changed"] and not self._task.check_mode:
            unit = folder.content(folder.manifest["librarian"]["unit"]).decode()
            more = {"step": "change", "unit": unit, "files": self.send_files(folder, wanted)}
            found = self.ask(args, {**told, **more}, task_vars)
        if self._task.diff:
            after = "".join(f"{name}\n" for name in found["models"])
            found["diff"] = {
                "before_header": "models",
                "after_header": "models",
                "before": "",
                "after": after,
            }
        return found
