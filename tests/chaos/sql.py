"""Sql: plain statements to a database, each in a session of its own, independent of the tested code."""

from __future__ import annotations

from typing import Any

import psycopg2


class Sql:
    """Call it with a statement and its parameters (`%s`): it commits and returns the rows."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self._url, connect_timeout=10)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()
