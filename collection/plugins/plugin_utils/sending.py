"""What the action plugins share: a release as the export holds it, and what of it is sent to a host."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.ogen.fleet.plugins.plugin_utils.packing import MAIN, make

AGENT = Path(__file__).parent.parent / "module_utils" / "agent"
RUNS = {"previous": "rollback", "absent": "retire"}  # what a run is called in the host's history
KNOWN = "ogen_secrets"  # the variable with texts of files that are not in the export


class Folder:
    """A release: release.json, and its files by the paths where people look for them on the host."""

    def __init__(self, path: str, loader: Any, secrets: Mapping[str, str]) -> None:
        self.path = Path(path)
        self.loader = loader
        self.secrets = secrets
        try:
            found = json.loads((self.path / "release.json").read_text("utf-8"))
            self.manifest: dict[str, Any] = found["manifest"]
            self.patience: dict[str, float] = found["patience"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnsibleActionFail(f"{self.path}: no release of `ogen export ansible`: {error}") from None
        self.files = {entry["path"]: entry for entry in self.manifest["files"]}

    def content(self, path: str) -> bytes:
        """A file's content, which must be what the release says."""
        entry = self.files[path]
        data = self._secret(path) if entry["secret"] else self._plain(path)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise AnsibleActionFail(
                f"{self.path}{path} is not what the release says: it was edited since the export, or is "
                "a secret that is another one by now; export again"
            )
        return data

    def _plain(self, path: str) -> bytes:
        try:
            return Path(f"{self.path}{path}").read_bytes()
        except OSError as error:
            raise AnsibleActionFail(f"{self.path}{path}: {error.strerror}") from None

    def _secret(self, path: str) -> bytes:
        """From the variable, or a file that may be encrypted with ansible-vault."""
        if path in self.secrets:
            return str(self.secrets[path]).encode()
        file = f"{self.path}{path}"
        if not Path(file).exists():
            raise AnsibleActionFail(
                f"{path} is a secret, and not in this export: set the variable {KNOWN} (a map of paths "
                "to texts), or export with --with-secrets and encrypt the file with ansible-vault"
            )
        return Path(self.loader.get_real_file(file)).read_bytes()

    def blob(self, digest: str) -> str:
        """The file that a model is made from."""
        path = self.path.parent.parent / "blobs" / digest.replace(":", "-")
        if not path.is_file():
            raise AnsibleActionFail(f"{path} is missing: a model is made from it; export again")
        return str(path)


class Sender(ActionBase):
    """An action whose module looks at the host first, and is sent only what is missing there."""

    _supports_async = False
    _supports_check_mode = True

    def folder(self, src: str, task_vars: Mapping[str, Any]) -> Folder:
        secrets = self._templar.template(task_vars.get(KNOWN, {}))
        return Folder(self._loader.path_dwim(src), self._loader, secrets)

    def ask(self, args: Mapping[str, Any], told: Mapping[str, Any], task_vars: Any) -> dict[str, Any]:
        """One run of the module; a failure is raised."""
        name = f"ogen.fleet.{self._task.action.rpartition('.')[2]}"
        said = {"who": self.who(RUNS.get(told.get("state"), "apply")), **told}
        done = self._execute_module(name, module_args={**args, "told": said}, task_vars=task_vars)
        if done.get("failed"):
            raise AnsibleActionFail(_why(done), result=_shown(done))
        return _shown(done)

    def send(self, found: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """The agent where the host has another one, and contents by their digests, in one archive."""
        bundle = agent()
        digest = hashlib.sha256(bundle).hexdigest()
        missing = dict(contents) if digest in found["agents"] else {"agent": bundle, **contents}
        return {"agent": digest, "archive": self._sent(missing) if missing else None}

    def send_files(self, folder: Folder, wanted: Iterable[str]) -> dict[str, str]:
        """Files that models are made from, by their digests."""
        return {one: self._transfer_file(folder.blob(one), self._place(one[7:])) for one in wanted}

    def _sent(self, contents: Mapping[str, bytes]) -> str:
        with tempfile.NamedTemporaryFile(dir=constants.DEFAULT_LOCAL_TMP) as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
                for name, data in contents.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, BytesIO(data))
            file.flush()
            return str(self._transfer_file(file.name, self._place("ogen.tar.gz")))

    def _place(self, name: str) -> str:
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        return str(shell.join_path(shell.tmpdir, name))

    def who(self, what: str) -> str:
        """As ogen's own runs are told apart in a host's history: by a number for each run of Ansible."""
        parent = os.getppid()  # of this worker: the run's own process
        try:
            since = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            since = str(self._task.play)
        run = hashlib.sha256(f"{parent} {since}".encode()).hexdigest()[:8]
        return f"{getpass.getuser()}@{socket.gethostname()} with Ansible ({what} {run})"


def _why(done: Mapping[str, Any]) -> str:
    """A module that raised has no `msg` since ansible-core 2.19."""
    raised = done.get("exception")
    return str(done.get("msg") or getattr(getattr(raised, "event", None), "msg", None) or raised or "failed")


def _shown(done: Mapping[str, Any]) -> dict[str, Any]:
    """Without what Ansible adds for itself, and the invocation, which has the whole manifest in it."""
    return {key: value for key, value in done.items() if key != "invocation"}


def agent() -> bytes:
    """The agent as one file, as ogen sends it."""
    files = {f"agent/{file.name}": file.read_bytes() for file in AGENT.glob("*.py")}
    return make({**files, "__main__.py": MAIN.encode()})
