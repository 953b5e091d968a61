"""Labelled sentence pairs: from a file, from the shipped set, or from the hub. Values only, no tokens."""

from __future__ import annotations

from collections.abc import Iterable

from harness.values import sentence_pairs
from harness.values.errors import UserError
from harness.values.sentence_pairs import SHIPPED_FOLDER, Pairs, Row
from harness.values.spec import DataSpec

__all__ = ["SHIPPED_FOLDER", "Pairs", "read_pairs"]


def read_pairs(data: DataSpec) -> Pairs | None:
    """The first `data.samples` pairs of the source that `data` names, or None for random token ids.

    Raises UserError for a missing file, an unknown ending, missing columns or values, labels other than 0 and
    1, no rows, or a hub that cannot be reached.
    """
    if data.path is None and data.shipped is None and data.hub_id is not None:
        return sentence_pairs.of_rows(data, "data.hub_id", data.hub_id, _read_hub(data))
    return sentence_pairs.of_file(data)


def _read_hub(data: DataSpec) -> Iterable[Row]:
    import datasets

    datasets.disable_progress_bars()
    where = "/".join(part for part in (data.hub_id, data.hub_config, data.hub_split) if part)
    try:
        rows = datasets.load_dataset(data.hub_id, data.hub_config, split=data.hub_split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            "data.hub_id", where, f"cannot be loaded from the hub or its local cache ({reason})",
            "Connect to the hub, or use data.path=<file>, or the shipped data=paraphrase",
        ) from error  # fmt: skip
    if not isinstance(rows, datasets.Dataset):
        raise UserError(
            "data.hub_split", data.hub_split, "selects no single split", "Name one, e.g. validation"
        )
    return rows
