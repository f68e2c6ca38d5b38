"""Takes out of what is to be recorded whatever is private or gives access: secrets, users, machines, their folders.

It looks at names of keys ("api_key"), at the shape of texts ("https://user:pass@host", "/home/..") and at this
process's own environment, user and host. What is data must come through whole: `max_new_tokens`, `token_ids`,
`last_token`, commits, hashes, numbers. It is not for texts that models wrote, and knows nothing of what a run records.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

REDACTED = "<redacted>"
PRIVATE = "<private>"  # instead of a user's or a machine's name
SHORTEST_SECRET = 8  # characters of an environment's value that is looked for in all texts; "1" or "true" is none
SHORTEST_NAME = 5  # letters of a user's name that is taken out wherever it stands; a shorter one may be a word: "max"
TELLS_NOTHING = ("/proc/", "/sys/")  # folders that every machine has, and whose files' names say what is wrong

SECRET_WORDS = {"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization"}
SECRET_WORDS |= {"apikey", "apitoken", "authtoken", "accesstoken", "hftoken", "cookie", "cookies", "auth", "bearer"}
IN_THE_ENVIRONMENT = {
    "key",
    "keys",
    "token",
    "tokens",
    "pass",
    "pat",
}  # names there are no data: any of these is enough
# Before "key" or "tokens", which are mostly no secrets, these make one.
GIVING_ACCESS = {"api", "access", "auth", "private", "secret", "ssh", "signing", "encryption", "license", "account"}
GIVING_ACCESS |= {"bearer", "refresh", "session", "hub", "hf", "huggingface", "wandb", "openai", "aws", "azure", "gcp"}
# Before "token", which is mostly a secret, these make it a piece of text.
OF_A_TEXT = {"last", "first", "next", "bonus", "draft", "target", "stop", "end", "start", "special", "per", "this"}
OF_A_TEXT |= {"bos", "eos", "pad", "unk", "sep", "cls", "mask", "new", "prompt", "output", "each", "every"}
# Accounts and machines whose names say nothing about anyone, and may be words of a text.
COMMON = {"root", "user", "users", "admin", "administrator", "guest", "nobody", "runner", "worker", "daemon", "default"}
COMMON |= {
    "ubuntu",
    "debian",
    "linux",
    "docker",
    "container",
    "python",
    "jovyan",
    "slurm",
    "local",
    "localhost",
    "model",
}

SHAPES = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{20,} | sk-[\w-]{16,} | gh[opsur]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
      | xox[abeoprs]-[\w-]{10,} | AKIA[A-Z0-9]{16} | AIza[\w-]{30,} | wandb_v\d_\w{20,} | pypi-[\w-]{20,}
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                                     # a JSON web token
      | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----[\s\S]*?(?:-----END[ ][A-Z ]*-----|\Z)
    )""",
    re.VERBOSE,
)
HEADERS = re.compile(r"(?i)\b(authorization:\s*\w+|bearer)\s+[^\s'\"]{8,}")
ASSIGNMENTS = re.compile(
    r"""(?<![\w.-])(?P<key>[\w.-]++)(?P<sign>\s?=\s?|['"]?:\s+|['"]:)(?P<value>'[^'\n]*'|"[^"\n]*"|[^\s'",;&)}\]]+)"""
)
HEX_KEY = re.compile(r"[0-9a-fA-F]{32,}")
PART = r"[^\s/'\"`<>()\[\]{},;:|*?]+"  # of a path, where no quotes say where it ends
PLACES = re.compile(
    rf"""(?P<url>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*+://[^\s'"<>]+)
      | (?<=['"`])(?P<quoted>~?/[^'"`\n]+)(?=['"`])
      | (?P<path>(?<![\w./~<])~(?:[A-Za-z_][\w.-]*)?(?:/+{PART})+/*
               | (?:(?<![\w./~<])|(?=/+(?:home|Users)/))/+{PART}(?:/+{PART})+/*)
    """,
    re.VERBOSE,
)


class _Kind(Enum):
    """What the name of a key says about its value."""

    DATA = auto()
    TOKEN = auto()  # a text under it gives access; a number is the id or the count of a piece of text
    SECRET = auto()


def redact(value: Any) -> Any:
    """JSON data without anything private; numbers, booleans and nulls stay, unless a key calls them secret."""
    return _Redactor.of_this_process().clean(value)


@dataclass(frozen=True)
class _Redactor:
    """What must not be published from this process.

    Attributes:
        secrets: values of variables of the environment whose names call them secret, longest first.
        home: the user's folder; None if it is none of the user's own.
        names: users and machines, taken out wherever they stand.
        short_names: those that are words too, taken out of paths and addresses only.
    """

    secrets: tuple[str, ...]
    home: str | None
    names: re.Pattern[str]
    short_names: re.Pattern[str]

    @classmethod
    def of_this_process(cls) -> _Redactor:
        hidden = SECRET_WORDS | IN_THE_ENVIRONMENT
        secrets = {
            value for name, value in os.environ.items() if len(value) >= SHORTEST_SECRET and hidden & {*_words(name)}
        }
        users, machines = (names - COMMON for names in (_users(), _machines()))
        long = [re.escape(name) for name in users | machines if len(name) >= SHORTEST_NAME]
        short = [re.escape(name) for name in users if 1 < len(name) < SHORTEST_NAME]
        home = os.path.expanduser("~")  # noqa: PTH111  # Path's own raises where there is no home
        return cls(
            tuple(sorted(secrets, key=len, reverse=True)),
            home if home.startswith("/") and home != "/" else None,
            re.compile(rf"(?i)(?<![a-z0-9])(?:{'|'.join(long) or '(?!)'})(?![a-z0-9])"),
            re.compile(
                rf"(?<=[/\\])(?:{'|'.join(short) or '(?!)'})(?=[/\\]|$)|\b(?:{'|'.join(short) or '(?!)'})(?=[@/\\])"
            ),
        )

    def clean(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._under(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _under(self, key: str, value: Any) -> Any:
        """The value of a key; whatever lies deeper under a secret key is secret too."""
        kind = _kind(key)
        if isinstance(value, str) and HEX_KEY.fullmatch(value) and "key" in _words(key):
            return REDACTED
        return self.clean(value) if kind is _Kind.DATA else _hidden(value, kind)

    def text(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, REDACTED)
        text = HEADERS.sub(rf"\1 {REDACTED}", SHAPES.sub(REDACTED, text))
        text = ASSIGNMENTS.sub(_assignment, text)
        if self.home:
            text = re.sub(rf"(?<![\w./]){re.escape(self.home)}(?![\w.-])", "~", text)
        text = PLACES.sub(_place, text)
        return self.short_names.sub(PRIVATE, self.names.sub(PRIVATE, text))


def _hidden(value: Any, kind: _Kind) -> Any:
    """A value under a key that calls it secret; true, false, null and "" tell nothing."""
    if isinstance(value, Mapping):
        return {str(key): _hidden(item, kind) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item, kind) for item in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    return value if kind is _Kind.TOKEN and isinstance(value, int | float) else REDACTED


def _words(name: str) -> list[str]:
    """`wandb.apiKey` as wandb, api, key; numbers say nothing."""
    parts = re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name))
    return [part.lower() for part in parts if part]


def _kind(name: str) -> _Kind:
    words = _words(name)
    if not words:
        return _Kind.DATA
    *before, last = words
    if SECRET_WORDS & {*words} or (last in ("key", "keys", "tokens") and GIVING_ACCESS & {*before[-1:]}):
        return _Kind.SECRET
    return _Kind.TOKEN if last == "token" and not OF_A_TEXT & {*before} else _Kind.DATA


def _assignment(found: re.Match[str]) -> str:
    """`key=value` or `"key": "value"` inside a text; "unexpected token: x" is none."""
    kind, value = _kind(found["key"]), found["value"].strip("'\"")
    spoken = kind is _Kind.TOKEN and found["sign"].startswith(":") and len(_words(found["key"])) == 1
    plain = value in ("", "null", "None", "true", "false", "True", "False", REDACTED)
    number = kind is _Kind.TOKEN and re.fullmatch(r"[\d.]+", value)
    if kind is _Kind.DATA or spoken or plain or number:
        return found[0]
    return f"{found['key']}{found['sign']}{REDACTED}"


def _place(found: re.Match[str]) -> str:
    """The last name of a path; an address without its user and password."""
    if found["url"]:
        if found["url"].lower().startswith("file:"):
            return _last_name(re.sub(r"(?i)^file://[^/]*", "", found["url"]))
        return re.sub(r"^([^:]+://)[^/\s]*@", rf"\1{REDACTED}@", found["url"])
    return _last_name(found["quoted"] or found["path"])


def _last_name(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if len(parts) < 2 or (path.startswith(TELLS_NOTHING) and ".." not in parts):
        return path  # "/INST" is no place
    is_home = len(parts) == 2 and parts[0] in ("home", "Users")
    return "~" if is_home else parts[-1]


def _users() -> set[str]:
    """What the user of this process is called, on the machine and in full."""
    names = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "SLURM_JOB_USER")}
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:  # a container may run under a number without an entry
        return names
    return {*names, entry.pw_name, entry.pw_gecos.split(",")[0].strip(), Path(entry.pw_dir).name}


def _machines() -> set[str]:
    name = socket.gethostname()
    return {name, name.split(".")[0], os.environ.get("HOSTNAME", ""), os.environ.get("SLURMD_NODENAME", "")}
