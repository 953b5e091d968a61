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
HIDDEN = "***"
_USERINFO = re.compile(r"(?<=://)[^/\s'\"?#]*@")
_QUERY = re.compile(r"(?i)([?&](?:user|password|passwd|pwd|token|secret|api_key|sslpassword)=)[^&\s'\"]*")


def redact(text: str) -> str:
    """`text` with the user part of every URI, and passwords and tokens of a query, replaced by `***`."""
    return _QUERY.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))


def hide_arguments(arguments: list[str], environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """The command line with credentials replaced; a `tracking.uri=` that had some is kept in `environ`."""
    hidden = []
    for argument in arguments:
        key, found, value = argument.partition("=")
        if found and key.lstrip("+") == "tracking.uri" and redact(value) != value:
            environ[VARIABLE] = value.strip("'\"")
            # Quoted: Hydra's grammar reads neither `***` nor `?` in a bare value.
            argument = f'{key}="{redact(environ[VARIABLE])}"'
        hidden.append(redact(argument))
    return hidden


def reveal(uri: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """The URI to connect with: the one that `hide_arguments` kept, if `uri` is its redacted form."""
    kept = environ.get(VARIABLE, "")
    return kept if redact(kept) == uri else uri


def redact_files(folder: Path) -> None:
    """Rewrites the YAML files of a folder: credentials from a configuration file end up there too."""
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if redact(text) != text:
            path.write_text(redact(text), encoding="utf-8")
