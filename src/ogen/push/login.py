"""Logging in by paramiko: key files and their certificates, the agent's keys, then a password."""

from __future__ import annotations

import base64
import contextlib
import copy
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConnectError
from .access import Access, Keyring
from .lean import paramiko

FEW = 2  # a server that hangs up after more than so many keys has enough of them
AGENT = 60.0  # seconds for the agent's answer: it may ask its owner
_MAGIC = b"openssh-key-v1\0"
Offer = tuple[str, paramiko.PKey]


@dataclass(slots=True)
class Login:
    """One login, and what was tried so far."""

    host: str
    access: Access
    transport: paramiko.Transport
    keyring: Keyring
    tried: list[str] = field(default_factory=list)


def log_in(host: str, access: Access, transport: paramiko.Transport, keyring: Keyring) -> None:
    """ConnectError says what was offered, and why it was not enough."""
    login = Login(host, access, transport, keyring)
    try:
        with _agent(access, login.tried) as agent:
            if _by_key(login, agent) or _by_password(login):
                return
    except (paramiko.SSHException, OSError, EOFError) as error:
        login.tried.append(str(error) or "the host closed the connection")
    offered = ", ".join(login.tried) or "there is no key to offer"
    hint = "set ssh.user and ssh.key, or add the public key to ~/.ssh/authorized_keys of that user"
    if "too many" in offered.lower() or (len(login.tried) > FEW and not transport.is_active()):
        hint = "too many keys were offered: name the right one in ssh.key"
    raise ConnectError(f"{access.user}@{access.address} does not let us in ({offered})", host=host, hint=hint)


def _by_key(login: Login, agent: Agent) -> bool:
    """Whether a key was enough. A host may want a password after it."""
    for name, key in _offers(login, agent):
        login.tried.append(name)
        try:
            return not login.transport.auth_publickey(login.access.user, key)
        except paramiko.BadAuthenticationType:
            return False  # no keys at all
        except paramiko.AuthenticationException:
            if not login.transport.is_active():
                raise
    return False


def _by_password(login: Login) -> bool:
    access = login.access
    word = access.password if access.password is not None else _typed(login)
    if word is None:
        return False
    with login.keyring.trials.trial("login", access.user, word) as trial:
        if trial.refused_by:
            login.tried.append(f"the password was not tried: {trial.refused_by} refused it")
            return False
        login.tried.append("password")
        try:
            more = login.transport.auth_password(access.user, word)
        except paramiko.BadAuthenticationType:
            login.tried[-1] = "it takes no password"
            return False
        except paramiko.AuthenticationException:
            trial.refuse(login.host)
            return False
        trial.accepted = True
        return not more


def _typed(login: Login) -> str | None:
    """A person's answer, if there is one to ask and the host takes passwords at all."""
    user = login.access.user
    if login.keyring.ask is None or not {"password", "keyboard-interactive"} & _allowed(login):
        return None
    question = f"password of {user} on {login.host} (asked once for all hosts): "
    return login.keyring.typed(("login", user), question)


def _allowed(login: Login) -> set[str]:
    try:
        login.transport.auth_none(login.access.user)
    except paramiko.BadAuthenticationType as told:
        return set(told.allowed_types)
    return set()


# -------------------------------------------------------------------------------------- keys
def _offers(login: Login, agent: Agent) -> Iterator[Offer]:
    """Keys that need no passphrase first, then the agent's others, then those that do. Certificates
    go before the bare key."""
    access, locked = login.access, list[str]()
    held: dict[bytes, list[paramiko.AgentKey]] = {}
    for key in agent.get_keys():
        held.setdefault(key.asbytes(), []).append(key)
    used: set[bytes] = set()
    for path in access.keys:
        public = public_blob(path)
        if public in held:
            used.add(public)
            for key in held[public]:
                yield from _variants(f"{path} in the agent", path, key, login)
        elif is_locked(path):
            locked.append(path)
        else:
            yield from _file(path, login)
    if not access.only_keys:
        for key in (key for blob, keys in held.items() if blob not in used for key in keys):
            yield f"the agent's {key.get_name()} {key.comment}".rstrip(), key
    for path in locked:
        yield from _file(path, login)


def _file(path: str, login: Login) -> Iterator[Offer]:
    """The key of a file. It is read, and its passphrase asked for, once for all hosts."""
    found = login.keyring.once(("key", path), lambda: _load(path, login.keyring))
    if isinstance(found, str):
        login.tried.append(found)
    else:
        yield from _variants(path, path, found, login)


def _load(path: str, keyring: Keyring) -> paramiko.PKey | str:
    """The key, or why it can't be used."""
    word = None
    if is_locked(path):
        word = keyring.typed(("passphrase", path), f"passphrase of {path}: ")
        if word is None:
            return f"{path} has a passphrase: `ssh-add {path}` first, or run this on a terminal"
    try:
        secret: Any = word.encode() if word else None  # bytes for cryptography, whatever the stubs say
        return paramiko.PKey.from_path(path, secret)
    except paramiko.pkey.UnknownKeyType:
        return f"{path} is of a type that needs transport: openssh"
    except Exception as error:  # a key file can be damaged in many ways
        return f"{path}: wrong passphrase" if word is not None else f"{path}: {error}"


def _variants(name: str, path: str, key: paramiko.PKey, login: Login) -> Iterator[Offer]:
    """The key with each certificate that belongs to it, then alone."""
    if key.public_blob is not None and isinstance(key, paramiko.AgentKey):
        yield f"{name} with its certificate", key
        return
    for file in (f"{path}-cert.pub", *login.access.certificates):
        if Path(file).is_file():
            certified = _twin(key)
            try:
                certified.load_certificate(file)
            except (ValueError, OSError, paramiko.SSHException) as error:
                login.tried.append(f"{file}: {error}")
                continue
            if _belongs(certified):
                yield file, certified
    yield name, _twin(key)


def _twin(key: paramiko.PKey) -> paramiko.PKey:
    """The same key, without a certificate."""
    if isinstance(key, paramiko.AgentKey):
        return paramiko.AgentKey(key.agent, key.blob, key.comment)
    twin = copy.copy(key)
    twin.public_blob = None
    return twin


def _belongs(key: paramiko.PKey) -> bool:
    """Whether the certificate holds this very key: after its type and a nonce come the key's own numbers."""
    assert key.public_blob is not None
    certificate, bare = paramiko.Message(key.public_blob.key_blob), paramiko.Message(key.asbytes())
    certificate.get_binary()
    certificate.get_binary()
    bare.get_binary()
    return certificate.get_remainder().startswith(bare.get_remainder())


def is_locked(path: str) -> bool:
    """Whether a private key's file needs a passphrase."""
    data = _body(path)
    if data.startswith(_MAGIC):
        return paramiko.Message(data[len(_MAGIC) :]).get_text() != "none"
    return b"ENCRYPTED" in data


def public_blob(path: str) -> bytes:
    """The public half of a private key's file, which is readable without passphrase; b"" if unknown."""
    with contextlib.suppress(Exception):
        data = _body(path)
        if data.startswith(_MAGIC):
            message = paramiko.Message(data[len(_MAGIC) :])
            for _ in range(3):
                message.get_binary()
            message.get_int()
            return message.get_binary()
        return base64.b64decode(Path(path + ".pub").read_text().split()[1])
    return b""


def _body(path: str) -> bytes:
    """The decoded text of OpenSSH's format; other formats as they are."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return b""
    if b"BEGIN OPENSSH PRIVATE KEY" not in data:
        return data
    try:
        return base64.b64decode(b"".join(line for line in data.splitlines() if not line.startswith(b"-----")))
    except ValueError:
        return data


# -------------------------------------------------------------------------------------- the agent
class Agent(paramiko.agent.AgentSSH):
    """An ssh agent at any socket; paramiko's own class knows only SSH_AUTH_SOCK."""

    def open(self, path: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(AGENT)
        try:
            sock.connect(path)
            self._connect(sock)  # type: ignore[attr-defined]
            for key in self.get_keys():
                if "-cert-v01@" in key.get_name():  # paramiko would send the bare key under that name
                    certificate = paramiko.pkey.PublicBlob(key.get_name(), key.blob, key.comment)
                    key.public_blob = certificate  # type: ignore[assignment]
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


@contextlib.contextmanager
def _agent(access: Access, tried: list[str]) -> Iterator[Agent]:
    """The user's agent; one without keys where none runs."""
    agent = Agent()
    if access.agent:
        try:
            agent.open(access.agent)
        except (OSError, paramiko.SSHException) as error:
            tried.append(f"the ssh agent does not answer ({error})")
    try:
        yield agent
    finally:
        agent.close()
