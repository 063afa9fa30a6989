from __future__ import annotations

from datetime import timedelta

import click
import pytest

from hpo.cli.options import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172_800), ("0.5h", 1800), (" 25M ", 1500)],
)
def test_a_span_of_time_is_read(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-5m", "5 minutes", "m", "1m30h", "9999999d"])
def test_what_is_no_time_above_zero_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 90s, 30m, 1h30m or 2d"):
        Duration().convert(text, None, None)
