"""The one error that a user of the harness is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """A wrong input, told in one paragraph: the setting, the value it had, the problem and the remedy.

    Args:
        setting: what the user would change, as typed on the command line (`batch.size`) or in the
            environment (`BERT_OP_PT_LIB`).
        value: the value that is wrong; shown with `repr`.
        problem: what is wrong with it, a clause without a final full stop.
        remedy: what to do instead, a clause without a final full stop.
    """

    def __init__(self, setting: str, value: object, problem: str, remedy: str) -> None:
        self.setting = setting
        self.value = value
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{setting}={value!r}: {problem}. {remedy}.")
