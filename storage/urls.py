"""URLs of databases: parsed, checked, and shown without their password."""

from __future__ import annotations

import re
from urllib.parse import unquote

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import DatabaseUnavailableError

_SCHEMES = ("postgresql+psycopg2", "postgresql", "postgres")

_RULE = "the storage must be PostgreSQL, as postgresql://user:password@host:5432/database; none starts the embedded one"

_ENCODE = (
    "the storage URL cannot be read: percent-encode @ / ? # & and % in user and password "
    "(%40 %2F %3F %23 %26 %25), give no option twice and none that the client of PostgreSQL does not know, "
    "or leave the password out and name a file that holds it in HPO_STORAGE_PASSWORD_FILE"
)

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")

_USER_INFO = re.compile(r"([^@/?#%]|%[0-9A-Fa-f]{2})*")

_HOST = re.compile(r"((?:[\w.~-]|%[0-9A-Fa-f]{2})*|\[[0-9A-Fa-f:.%]+\])(?::(\d*))?")

_OPTION = re.compile(r"[a-z_]+")

_TAIL = re.compile(r"([^/?#]*)((?:/[^?#]*)?(?:\?[^#]*)?)")


def parse_url(text: str) -> URL:
    """Parse the URL of a PostgreSQL database for psycopg2, in libpq's or SQLAlchemy's form, or `host=… dbname=…`.

    Several hosts become `host=a,b` and `port=1,2` in the query, the form that libpq reads. Raises
    DatabaseUnavailableError for anything else, in one line without any part of the text, which may be a password.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator and "=" in text:
        return _checked(_from_dsn(text))
    if not separator or scheme not in _SCHEMES:
        shown = f"the scheme {scheme!r}" if separator and _SCHEME.fullmatch(scheme) else "text without a scheme"
        raise DatabaseUnavailableError(f"{shown} is no storage URL; {_RULE}")
    return _checked(_with_password_in_place(_parse_rest(rest)))


def _parse_rest(rest: str) -> URL:
    """Return the URL with `rest` after its scheme. Raises DatabaseUnavailableError when that cannot be read."""
    user, at, tail = rest.rpartition("@")  # the last one: a password that is not encoded may hold others
    parts = _TAIL.fullmatch(tail)
    hosts = _parse_hosts(parts[1]) if parts is not None else None
    if parts is None or hosts is None or not _USER_INFO.fullmatch(user) or not _is_query(parts[2].partition("?")[2]):
        raise DatabaseUnavailableError(f"{_ENCODE}; {_RULE}")
    try:
        url = make_url(f"{_SCHEMES[0]}://{user}{at}{parts[2]}")
    except (ArgumentError, ValueError):
        raise DatabaseUnavailableError(f"{_ENCODE}; {_RULE}") from None
    if (url.username and "user" in url.query) or (url.password and "password" in url.query):
        raise DatabaseUnavailableError(f"{_ENCODE}; {_RULE}")
    return _at_hosts(url, hosts)


def _parse_hosts(text: str) -> list[tuple[str, str]] | None:
    """Return host and port of each part of `a:1,b:2`, empty where not given; None when a part is invalid."""
    hosts = [_HOST.fullmatch(part) for part in text.split(",")]
    pairs = [(unquote(host[1]).strip("[]"), host[2] or "") for host in hosts if host is not None]
    return pairs if len(pairs) == len(hosts) else None


def _is_query(text: str) -> bool:
    """Return whether `text` is `key=value&…` with options of libpq, each given once but for `host` and `port`.

    The text after an `&` in a password that is not encoded is no such option, and would be shown as one.
    """
    pieces = [piece.partition("=") for piece in text.split("&")] if text else []
    keys = [key for key, _, _ in pieces]
    single = [key for key in keys if key not in ("host", "port")]
    return all(value for _, _, value in pieces) and len(set(single)) == len(single) and all(map(_is_option, keys))


def _is_option(key: str) -> bool:
    """Return whether libpq has an option of that name."""
    try:
        make_dsn(**{key: "x"})
    except psycopg2.Error:
        return False
    return _OPTION.fullmatch(key) is not None


def _at_hosts(url: URL, pairs: list[tuple[str, str]]) -> URL:
    """Return `url` with these hosts and ports, or, if they are empty, with those in its query (`host=a:1&host=b:2`)."""
    named = url.query.get("host", ())
    if pairs == [("", "")] and not isinstance(named, str) and named:
        pairs = [(host, port) for host, _, port in (one.partition(":") for one in named)]
        url = url.difference_update_query(["host"])
    if len(pairs) > 1:
        hosts, ports = zip(*pairs, strict=True)
        given = {"port": ",".join(ports)} if any(ports) else {}
        return url.update_query_dict({"host": ",".join(hosts), **given})
    host, port = pairs[0]
    if "/" in host:  # the folder of a socket
        return url.update_query_dict({"host": host, **({"port": port} if port else {})})
    return url.set(host=host or None, port=int(port) if port else None)


def _from_dsn(text: str) -> URL:
    try:
        given = {key: str(value) for key, value in parse_dsn(text).items()}
    except psycopg2.Error:
        raise DatabaseUnavailableError(f"text without a scheme is no storage URL; {_RULE}") from None
    user, password, database = (given.pop(key, None) for key in ("user", "password", "dbname"))
    url = URL.create(_SCHEMES[0], username=user, database=database, query=given)
    return url if password is None else _with_password(url, password)


def _checked(url: URL) -> URL:
    """Return `url`. Raises DatabaseUnavailableError when it has characters that libpq cannot be given."""
    values = [url.username, url.password, url.host, url.database, *(str(value) for value in url.query.values())]
    if any(character in value for value in values if value for character in "\0\n\r"):
        raise DatabaseUnavailableError(f"the storage URL holds a line break or a NUL character; {_RULE}")
    return url


def give_password(text: str, password: str) -> str:
    """Return the URL `text` with `password`, encoded, unless it has one. Raises as `parse_url` does."""
    url = parse_url(text)
    return text if url.password else _checked(_with_password(url, password)).render_as_string(hide_password=False)


def safe_url(url: URL) -> str:
    """Return the URL with every password masked, also in its query."""
    return url.update_query_dict(dict.fromkeys(_secret_keys(url), "masked")).render_as_string(hide_password=True)


def passwords(url: URL) -> list[str]:
    """Return every password in the URL."""
    held = [url.password, *(url.query[key] for key in _secret_keys(url))]
    values = [value for item in held for value in ((item,) if isinstance(item, str) else item or ())]
    return [value for value in values if value]


def place(url: URL) -> str:
    """Return server and database as error messages name them: `host:port/database`."""
    query = {key: value if isinstance(value, str) else ",".join(value) for key, value in url.query.items()}
    hosts = url.host or query.get("host") or "the local socket"
    ports = str(url.port or query.get("port") or "").split(",")
    named = hosts.split(",")
    ports = ports * len(named) if len(ports) == 1 else ports
    pairs = [
        f"{host}:{port}" if port and not host.startswith("/") else host
        for host, port in zip(named, ports, strict=False)
    ]
    return f"{','.join(pairs)}/{url.database or ''}".rstrip("/")


def _secret_keys(url: URL) -> list[str]:
    """Return the keys of the query that hold a password, such as libpq's `sslpassword`."""
    return [key for key in url.query if "password" in key.lower()]


def _with_password_in_place(url: URL) -> URL:
    """Move `?password=` to the user's part of the URL, where it is masked."""
    if "password" not in url.query:
        return url
    return _with_password(url.difference_update_query(["password"]), str(url.query["password"]))


def _with_password(url: URL, password: str) -> URL:
    """Return `url` with `password`. SQLAlchemy renders a password without a user only if the user is ''."""
    return url.set(username=url.username or "", password=password)
