"""StudySpec: the definition of a study, written once at its creation, and compared with that of a later run."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import StudyError

_VERSION = 1

SPEC = "hpo:spec"
"""User attribute of a study: its spec."""


class StudySpec(BaseModel):
    """Space, data, metric, seed and method of a study, as JSON. It holds no path, since paths differ between hosts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(_VERSION, description="version of this format")
    id: str = Field("", description="name of the study's files, unique among all databases; set by `create_study`")
    space: dict[str, Any] = Field(description="the search space, as `SearchSpace.to_dict` gives it")
    space_fingerprint: str = Field(description="digest of the parts of the space that determine its trials")
    data: dict[str, Any] = Field(description="classes, counts, split, seed and fractions of the data set")
    data_fingerprint: str = Field(description="digest of the images and labels")
    metric: str = Field(description="metric that is maximised")
    robustness: float = Field(0.0, ge=0, le=1, description="weight of altered images in what is maximised")
    seed: int = Field(description="seed from which the seeds of all trials derive")
    weights_digest: str | None = Field(None, description="digest of the file of pretrained weights, if one was given")
    weights_normalisation: list[list[float]] | None = Field(
        None, description="mean and std from the files beside the weights, empty without any; None: not recorded"
    )
    sampler: str = Field(description="name of the sampler")
    pruner: str = Field(description="name of the pruner")

    @property
    def value_name(self) -> str:
        """The name of a trial's value: the metric, or `value` where it is made of that on two kinds of images."""
        return "value" if self.robustness else self.metric


def read_spec(study: optuna.Study) -> StudySpec:
    """Return the spec of `study`. Raises StudyError when there is none, or when this version cannot read it."""
    stored = study.user_attrs.get(SPEC)
    if stored is None:
        raise StudyError(f"study {study.study_name!r} was not made by hpo; give another name with --study")
    if stored.get("version") != _VERSION:
        raise StudyError(
            f"study {study.study_name!r} was made by another version of hpo (spec {stored.get('version')}, "
            f"here {_VERSION}); use that version, or another name with --study"
        )
    try:
        return StudySpec.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StudyError(
            f"the spec of study {study.study_name!r} cannot be read ({key}: {first['msg']}); "
            "give another name with --study"
        ) from None


def id_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the id in the user attributes of a study; None without a readable spec."""
    stored = attributes.get(SPEC)
    return stored.get("id") if isinstance(stored, Mapping) else None


def has_spec(study: optuna.Study) -> bool:
    """Return whether `study` was completely created by hpo."""
    return SPEC in study.user_attrs


def write_spec(study: optuna.Study, spec: StudySpec) -> None:
    """Write the spec: the last step of the creation of a study."""
    # Without the field where it is 0, so that earlier versions of hpo, which have no such field, can read the spec.
    study.set_user_attr(SPEC, spec.model_dump(mode="json", exclude=None if spec.robustness else {"robustness"}))


def make_id(name: str) -> str:
    """Return a new id for a study called `name`: unique among all databases, and valid as the name of a folder."""
    plain = re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:40]
    return f"{plain or 'study'}-{secrets.token_hex(4)}"


def check_same(name: str, stored: StudySpec, asked: StudySpec) -> None:
    """Raise StudyError, naming the first difference, unless both define the same search, whatever their ids."""
    for fact, word, way_out in _IDENTITY:
        if _value(stored, fact) != _value(asked, fact):
            raise StudyError(
                f"study {name!r} exists with another {word} ({_difference(fact, stored, asked)}); "
                f"give another name with --study, or {way_out}"
            )


_IDENTITY = (
    ("space_fingerprint", "search space", "the space that it was made with (--space, --set, --backbone)"),
    ("data_fingerprint", "data set", "the DATA that it was made with"),
    ("metric", "metric", "that --metric"),
    ("robustness", "robustness", "that --robustness"),
    ("weights_digest", "weights file", "the --weights that it was made with"),
    ("seed", "seed", "that --seed"),
    ("data.seed", "seed of the split", "that --seed"),
    ("data.val_fraction", "validation fraction", "that --val-fraction"),
    ("data.test_fraction", "test fraction", "that --test-fraction"),
    ("data.group_by", "grouping of the images", "that --group-by (or none)"),
    ("data.folds", "number of folds", "that --folds (or none)"),
    ("data.max_unreadable", "share of unreadable images", "that --max-unreadable"),
    ("sampler", "sampler", "that --sampler"),
    ("pruner", "pruner", "that --pruner"),
)
"""Fields in which two specs must agree (`data.<key>` for one of the data), with their names and the way out."""


def _value(spec: StudySpec, fact: str) -> Any:
    field, dot, key = fact.partition(".")
    return spec.data.get(key) if dot else getattr(spec, field)


def _difference(fact: str, stored: StudySpec, asked: StudySpec) -> str:
    """Return the first difference in the fact («dimensions.dropout.high: stored 0.1, asked 0.2»), or both values."""
    parts = _PARTS.get(fact)
    found = first_difference(parts(stored), parts(asked)) if parts else None
    return found or f"stored {_short(_value(stored, fact))}, asked {_short(_value(asked, fact))}"


def _searched(spec: StudySpec) -> dict[str, Any]:
    """Return the parts of the space that its fingerprint covers."""
    fixed = {key: value for key, value in spec.space.get("fixed", {}).items() if key != "weights"}
    return {"fixed": fixed, "dimensions": spec.space.get("dimensions", {})}


_PARTS: dict[str, Callable[[StudySpec], dict[str, Any]]] = {
    "space_fingerprint": _searched,
    "data_fingerprint": lambda spec: spec.data,
}


def first_difference(stored: Any, asked: Any, path: str = "") -> str | None:
    """Return where two JSON values first differ, in words; None when they are equal."""
    pairs = _pairs(stored, asked)
    if pairs is None:
        return None if stored == asked else f"{path}: stored {_short(stored)}, asked {_short(asked)}"
    found = (first_difference(was, is_now, f"{path}.{key}" if path else key) for key, was, is_now in pairs)
    return next((difference for difference in found if difference), None)


def _pairs(stored: Any, asked: Any) -> list[tuple[str, Any, Any]] | None:
    """Return key and both values of each member of two objects, or of two lists of one length; None for the rest."""
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        return [(key, stored.get(key, _ABSENT), asked.get(key, _ABSENT)) for key in {**stored, **asked}]
    if isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        return [(str(i), *pair) for i, pair in enumerate(zip(stored, asked, strict=True))]
    return None


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _short(value: object) -> str:
    shown = value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
