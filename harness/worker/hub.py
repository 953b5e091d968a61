"""Whether the model hub answers, found out once and within seconds, before any library starts its retries."""

from __future__ import annotations

import os
import ssl
import threading
import urllib.error
import urllib.request

from harness.values.spec import RunSpec

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 5.0


def needs_hub(spec: RunSpec) -> bool:
    """Whether anything that `spec` asks for may come from the hub."""
    model, data = spec.model, spec.data
    from_hub = model.source == "hub" or (model.source == "auto" and model.hub_id is not None)
    text = data.hub_id is not None and data.path is None
    tokenizer = model.tokenizer is not None and not os.path.isdir(model.tokenizer)
    return from_hub or text or tokenizer


def go_offline_unless_reachable(timeout: float = TIMEOUT_SECONDS) -> str | None:
    """Returns None when the hub answers. Otherwise switches the hub's libraries, which must not have been
    imported yet, to their local cache by HF_HUB_OFFLINE, and returns why.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    problem = _probe(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, timeout)
    if problem is not None:
        # Each library would otherwise retry every file for half a minute before it looks into its cache.
        os.environ["HF_HUB_OFFLINE"] = "1"
    return problem


def _probe(endpoint: str, timeout: float) -> str | None:
    """None when anything answers at `endpoint`, else why not. The name look-up has no timeout of its own, so
    the whole attempt runs in a thread that is left behind when it takes too long.
    """
    outcome: list[str | None] = []

    def attempt() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout).close()
            outcome.append(None)
        except urllib.error.HTTPError:
            outcome.append(None)  # an answer, even if not the one asked for
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            # A certificate that is not trusted here is an answer too; the hub's libraries may have their own
            # store.
            trusted = not isinstance(reason, ssl.SSLError)
            outcome.append(f"{endpoint} cannot be reached ({reason})" if trusted else None)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0] if outcome else f"{endpoint} did not answer within {timeout:g} s"
