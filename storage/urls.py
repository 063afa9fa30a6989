"""URLs of databases: read, refused, and shown without their password."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import DatabaseUnavailableError

_SCHEMES = ("postgresql+psycopg2", "postgresql", "postgres")
_RULE = "the storage must be PostgreSQL, as postgresql://user:password@host:5432/database; none starts the embedded one"


def parse_url(text: str) -> URL:
    """The URL of a PostgreSQL database, for psycopg2. Anything else raises DatabaseUnavailableError, in one line."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        # Text without a scheme may be anything, a password among others: it is not repeated.
        shown = f"the scheme {scheme!r}" if separator else "text without a scheme"
        raise DatabaseUnavailableError(f"{shown} is no storage URL; {_RULE}")
    try:
        if text.partition("?")[0].count("@") > 1:
            raise ValueError("a password that is not encoded")
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise DatabaseUnavailableError(
            f"the storage URL cannot be read (are @, / or : in the password percent-encoded?); {_RULE}"
        ) from None
    return _with_password_in_place(url.set(drivername=_SCHEMES[0]))


def safe_url(url: URL) -> str:
    """The URL with every password masked, those in its query too."""
    return url.update_query_dict(dict.fromkeys(_secret_keys(url), "masked")).render_as_string(hide_password=True)


def passwords(url: URL) -> list[str]:
    """Every password that the URL holds."""
    held = [url.password, *(url.query[key] for key in _secret_keys(url))]
    values = [value for item in held for value in ((item,) if isinstance(item, str) else item or ())]
    return [value for value in values if value]


def place(url: URL) -> str:
    """The server and the database, as an error message names them: `host:port/database`."""
    host = url.host or url.query.get("host") or "the local socket"
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}".rstrip("/")


def _secret_keys(url: URL) -> list[str]:
    """Keys of the query that hold a password, as libpq's `sslpassword` does."""
    return [key for key in url.query if "password" in key.lower()]


def _with_password_in_place(url: URL) -> URL:
    """`?password=` moved to where a password is masked."""
    if "password" not in url.query:
        return url
    password = url.query["password"]
    bare = url.difference_update_query(["password"])
    return bare.set(password=password if isinstance(password, str) else password[-1])
