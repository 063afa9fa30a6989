"""The user attributes of a trial, all of one occasion in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy import Connection, text

# As optuna writes them, which takes two statements for each.
_WRITE = text(
    """
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT t.trial_id, a.key, a.value
    FROM trials t, unnest(CAST(:keys AS text[]), CAST(:values AS text[])) AS a (key, value)
    WHERE t.trial_id = :trial AND t.state IN ('RUNNING', 'WAITING')
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
    """
)


def write_attributes(connection: Connection, trial_id: int, values: Mapping[str, Any]) -> None:
    """Write user attributes of a trial, JSON-ready. Raises UpdateFinishedTrialError when it is finished, as optuna."""
    if not values:
        return
    texts = [json.dumps(value) for value in values.values()]
    written = connection.execute(_WRITE, {"trial": trial_id, "keys": list(values), "values": texts}).rowcount
    if written != len(values):
        raise UpdateFinishedTrialError(f"trial (id {trial_id}) is finished, and cannot be written for any more")
