"""Accuracy alone is refused where there can be none, and only there."""

from __future__ import annotations

import dataclasses

import pytest
from harness_fixtures import a_spec

from harness.values.errors import UserError
from harness.values.scorable import refuse_unscorable
from harness.values.spec import DataSpec, MeasureSpec

ACCURACY = MeasureSpec(accuracy=True, throughput=False)
LABELLED = a_spec(measure=ACCURACY, data=DataSpec("mine", path="pairs.tsv"))
UNLABELLED = a_spec(measure=ACCURACY)


def test_random_weights_have_nothing_to_score() -> None:
    with pytest.raises(UserError, match="nothing to score: the hub is out of reach"):
        refuse_unscorable(UNLABELLED, "random", None, "the hub is out of reach")


def test_labels_need_a_head() -> None:
    with pytest.raises(UserError, match="has no task head"):
        refuse_unscorable(LABELLED, "path", "encoder", "")
    refuse_unscorable(LABELLED, "path", "sentence-embedding", "")
    refuse_unscorable(LABELLED, "path", None, "")  # not known yet: the worker will say
    refuse_unscorable(UNLABELLED, "path", "encoder", "")  # the error to the reference can be measured


def test_what_measures_throughput_too_goes_on() -> None:
    refuse_unscorable(dataclasses.replace(LABELLED, measure=MeasureSpec()), "random", None, "no hub")
