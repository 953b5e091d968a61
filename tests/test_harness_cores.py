"""Lists of CPUs as a person writes them."""

import pytest

from harness.values.cores import parse_cores
from harness.values.errors import UserError


@pytest.mark.parametrize(("text", "cores"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("2, 2-3", (2, 3))])
def test_lists_of_cores(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "1-", "0;1", "-1", "3-0", "0-9999999999", "0-" + "9" * 5000])
def test_no_list_of_cores(text: str) -> None:
    with pytest.raises(UserError, match=r"host\.cores"):
        parse_cores(text)
