"""Keeps the credentials of a tracking URI out of everything that is written or shown.

The command line is rewritten before Hydra sees it, because Hydra saves and logs what it sees. The real URI
travels in one environment variable, which launchers hand on to their jobs and host.py takes from workers.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "BERT_OP_TRACKING_URI"
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
HIDDEN = "***"
_QUOTES = "'\""
# What follows `://`: the whole word where there is a `user:` and an @, since the password may have another `://`
# in it, else up to the next `://`. `sqlite:///file` names no host, and so no user either.
_URI = re.compile(r"(?<=://)(?!/)(?:[^/\s'\"?#:]*:[^\s'\"]*@[^\s'\"]*|(?:(?!://)[^\s'\"])+)")
# Behind `user:` comes a password, in which SQLAlchemy allows what elsewhere ends the host: / ? #. What looks
# like one may be a port with an @ in its path, or with another URI behind it: rather hide too much.
_USERINFO = re.compile(r"(?:[^/\s'\"?#:]*:[^\s'\"]*|[^/\s'\"?#]*)@")
_QUERY = re.compile(r"(?i)([?&](?:user|password|passwd|pwd|token|secret|api_key|sslpassword)=)[^&\s'\"]*")


def redact(text: str) -> str:
    """`text` with the user part of every URI, and passwords and tokens of a query, replaced by `***`."""
    return _without_query(_URI.sub(_without_user, text))


def _without_query(text: str) -> str:
    return _QUERY.sub(rf"\g<1>{HIDDEN}", text)


def _without_user(found: re.Match[str]) -> str:
    # The query first: an @ in a password there ends no user part.
    rest = _without_query(found[0])
    if _USERINFO.match(found[0]) is None:
        return rest
    user = _USERINFO.match(rest)
    # Without one, the only @ stood in what was taken for a query, and may be the end of a password.
    return HIDDEN if user is None else f"{HIDDEN}@{rest[user.end() :]}"


def hide(uri: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """`uri` redacted; one that had credentials is kept in `environ`, where `reveal` finds it."""
    shown = redact(uri)
    if shown != uri:
        environ[VARIABLE] = uri
    return shown


def hide_arguments(arguments: list[str], environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """The command line with credentials replaced; a `tracking.uri=` that had some is kept in `environ`."""
    hidden = []
    for argument in arguments:
        key, found, value = argument.partition("=")
        if found and key.lstrip("+") == "tracking.uri" and redact(value) != value:
            # Quoted: Hydra's grammar reads neither `***` nor `?` in a bare value.
            argument = f'{key}="{hide(value.strip(_QUOTES), environ)}"'
        hidden.append(redact(argument))
    return hidden


def reveal(uri: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """The URI to connect with: where `uri` is redacted, the one that `hide` kept or that MLFLOW_TRACKING_URI
    holds, whichever it is the redacted form of.
    """
    kept = (environ.get(name, "") for name in (VARIABLE, MLFLOW_VARIABLE))
    return next((real for real in kept if redact(real) == uri), uri)


def is_redacted(uri: str) -> bool:
    """Whether something of `uri` is hidden, so that nobody can connect with it."""
    return HIDDEN in uri


def redact_files(folder: Path) -> None:
    """Rewrites the YAML files of a folder: credentials from a configuration file end up there too."""
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if redact(text) != text:
            path.write_text(redact(text), encoding="utf-8")
