"""What `precision.target` is looked for on."""

from __future__ import annotations

from harness.values.errors import UserError
from harness.values.spec import RunSpec
from harness.worker import tokens
from harness.worker.backends import Goal
from harness.worker.data import Pairs
from harness.worker.weights import Loaded

TEXTS = 256


def goal_of(spec: RunSpec, loaded: Loaded, pairs: Pairs | None) -> Goal | None:
    """The bounds with the first TEXTS texts, or pairs, of the data; None where there are no bounds.

    The texts are among those that are scored: what is reached on others can be a little less. UserError where
    there is no text, or no tokenizer for it.
    """
    if not spec.target:
        return None
    told = ", ".join(f"{name} {bound:g}" for name, bound in spec.target.items())
    if pairs is None or loaded.tokenizer is None or loaded.source == "random":
        what = "text" if pairs is None else "tokenizer" if loaded.tokenizer is None else "trained weights"
        raise UserError(
            "precision.target", told, f"needs text, a tokenizer and trained weights, and there is no {what}",
            "Leave the target out, or name a checkpoint and a file of text",
        )  # fmt: skip
    return Goal(spec.target, tokens.texts_of(pairs, loaded.task)[:TEXTS], loaded.tokenizer)
