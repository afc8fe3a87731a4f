"""ogen.fleet.release on the control machine: sends what a host lacks, shows the difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ogen.fleet.plugins.plugin_utils.sending import Folder, Sender

NOTHING = ("files", "units", "models", "views", "instances", "balancers")
HIDDEN = "<redacted>\n"


class ActionModule(Sender):
    """Looks first; a host that is as it should be costs this one look."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            {
                "src": {"type": "path"},
                "state": {"type": "str", "choices": ["present", "previous", "absent"], "default": "present"},
                "id": {"type": "str"},
            },
            required_if=[("state", "present", ["src"])],
        )
        known = task_vars or {}
        folder = self.folder(args["src"], known) if args["state"] == "present" else None
        manifest = folder.manifest if folder else _nothing(str(known["inventory_hostname"]))
        diff = bool(self._task.diff)
        told = {"step": "look", "state": args["state"], "id": args["id"], "manifest": manifest, "diff": diff}
        found = self.ask(args, told, task_vars)
        result = _foreseen(found, args["state"])
        if diff and "report" in found:
            result["diff"] = _differences(found, folder)
        if found["changed"] and not self._task.check_mode:
            result.update(self._change(args, told, found, folder, task_vars))
        return result

    def _change(
        self,
        args: Mapping[str, Any],
        told: Mapping[str, Any],
        found: Mapping[str, Any],
        folder: Folder | None,
        task_vars: Any,
    ) -> dict[str, Any]:
        report = found.get("report", {})
        _refuse(report, args["state"])
        contents = {}
        if folder:
            lacking = set(report["missing"])
            paths = {one["sha256"]: path for path, one in folder.files.items() if one["sha256"] in lacking}
            contents = {digest: folder.content(path) for digest, path in paths.items()}
        more = {"step": "change", "base": report.get("current"), "to": found.get("release")}
        if folder:
            more["patience"] = folder.patience
            more["files"] = self._model_files(folder, report["models"])
        return self.ask(args, {**told, **more, **self.send(found, contents)}, task_vars)

    def _model_files(self, folder: Folder, names: list[str]) -> dict[str, str]:
        """For models that ogen.fleet.models has not made before."""
        models = [one for one in folder.manifest["models"] if one["name"] in names]
        parts = [
            part
            for one in models
            for key in ("files", "adapters")
            for part in one["request"].get(key, {}).values()
        ]
        return self.send_files(folder, sorted({part for part in parts if str(part).startswith("sha256:")}))


def _nothing(host: str) -> dict[str, Any]:
    return {"format": 1, "host": host, **{key: [] for key in NOTHING}, "librarian": {}}


def _refuse(report: Mapping[str, Any], state: str) -> None:
    """What the agent would refuse too, before anything is sent."""
    if report.get("locked"):
        raise AnsibleActionFail(f"another rollout holds this host: {report['locked']}")
    if report.get("absent") and state == "present":
        raise AnsibleActionFail(f"{report['absent']} is not on this host; run provision.yaml first")


def _foreseen(found: Mapping[str, Any], state: str) -> dict[str, Any]:
    """The result where nothing is done."""
    if state == "previous":
        return {key: found[key] for key in ("changed", "release", "before")}
    report = found["report"]
    units = sorted({*report["restart"], *report["reload"], *report["stop"]})
    before = report["release"] or ""
    told = {"changed": found["changed"], "before": before, "release": before}
    return {**told, "restarted": units} if found["changed"] else told


def _differences(found: Mapping[str, Any], folder: Folder | None) -> list[dict[str, str]]:
    """Files that change, and at last what else does."""
    report, texts = found["report"], dict(found["texts"])
    shown = [
        _difference(one, texts.get(one["path"]), folder) for one in report["files"] if one["state"] != "same"
    ]
    lines = [
        f"{key}: {one}\n" for key in ("models", "links", "restart", "reload", "stop") for one in report[key]
    ]
    if lines and found["changed"]:
        shown.append({"prepared": "".join(lines)})
    return shown


def _difference(file: Mapping[str, Any], text: str | None, folder: Folder | None) -> dict[str, str]:
    path = file["path"]
    wanted = folder.files.get(path) if folder else None
    shown = {"before_header": f"{path} ({file['state']})", "after_header": path, "before": "", "after": ""}
    if file.get("secret") or (wanted and wanted["secret"]):
        return {**shown, "before": HIDDEN if "kind" in file else "", "after": "<redacted, another one>\n"}
    if "kind" in file:
        shown["before"] = text if text is not None else f"{file['kind']} of {file['size']} bytes\n"
    if wanted and folder:
        shown["after"] = folder.content(path).decode("utf-8", "replace")
    access = [
        f"{one['mode']:04o} {one['owner']}:{one['group']}\n"
        for one in (file, wanted)
        if one and "mode" in one
    ]
    if len(set(access)) == 2:
        shown["before"], shown["after"] = access[0] + shown["before"], access[1] + shown["after"]
    return shown
