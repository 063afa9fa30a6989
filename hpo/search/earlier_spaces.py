"""Shipped spaces as they were in earlier versions: the command that made a study then still continues it.

Before `symmetry` was a field, all spaces mirrored and turned images; `quick` had no mixture of families at first. A
study holds the fingerprint of its space, by which the edition that it was made with is found.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.search.plan import Plan, assignments, resolve_space
from hpo.search.symmetry_choice import symmetry_of
from search_spaces import SearchSpace, SpaceError, earlier_edition, load_space, read_space
from storage import Database, has_spec, open_study, read_spec, study_names


def with_earlier_space(db: Database, plan: Plan) -> tuple[Plan, str | None]:
    """Return the plan with the space that the study was made with, and a line that tells the user so, or None.

    Before `symmetry` was a field, all spaces mirrored and turned images, and shipped spaces have changed since. The
    command that made a study then still continues it that way.
    """
    made_with = _fingerprint(db, plan.study) if plan.earlier else None
    earlier = next((one for one in plan.earlier if one.fingerprint == made_with), None)
    if earlier is None or made_with == plan.space.fingerprint:
        return plan, None
    own = {name: value for name, value in earlier.fixed.items() if plan.space.fixed.get(name) != value}
    values = ", ".join(f"{name}={value}" for name, value in own.items())
    when = "when all images were mirrored and turned" if "symmetry" in own else f"with an earlier {earlier.name}"
    note = f"study {plan.study} was made {when}, and goes on so: {values}"
    return replace(plan, space=earlier), note


def with_stored_space(db: Database, plan: Plan) -> tuple[Plan, str | None]:
    """Return the plan with the space of its study, where the command names none, and a line that says so, or None.

    The weights of the study are read where the study found them; ModelError where they cannot be.
    """
    found = open_study(db, plan.study) if plan.study in study_names(db) and not plan.names_space else None
    if found is None or not has_spec(found) or not isinstance(plan.space, SearchSpace):
        return plan, None
    spec = read_spec(found)
    stored, asked = read_space(spec.space), plan.space
    if not isinstance(stored, SearchSpace) or stored.fingerprint != spec.space_fingerprint:
        return plan, None
    if asked.assumes_symmetry:
        asked = asked.with_fixed({"symmetry": stored.largest().symmetry})
    if asked.fingerprint == stored.fingerprint:
        return plan, None
    digest = None
    if path := stored.fixed.get("weights"):
        from hpo.models import weights_digest

        digest = weights_digest(Path(str(path)))
    note = f"study {plan.study} goes on with the space that it was made with: {stored.name}"
    return replace(plan, space=stored, weights_digest=digest), note


def _fingerprint(db: Database, study: str) -> str | None:
    """Return the fingerprint of the space that the study was made with.

    None where there is no such study, or where it measured its symmetry: it is then of this version.
    """
    found = open_study(db, study) if study in study_names(db) else None
    if found is None or not has_spec(found) or (symmetry_of(found) or {}).get("source") in ("measured", "assumed"):
        return None
    return read_spec(found).space_fingerprint


def earlier_spaces(name: str, **options: Any) -> tuple[SearchSpace, ...]:
    """Return what `resolve_space` gave with these options in earlier versions, the earliest first."""
    found = [earlier_space(name, **options)]
    if edition := earlier_edition(name, since="symmetry"):
        with suppress(SpaceError):  # the command could not make a study then
            found.append(resolve_space(name, **options, edition=edition))
    return tuple(space for space in found if space is not None)


def earlier_space(
    name: str, *, backbone: str | None = None, weights: Path | None = None, fixed: tuple[str, ...] = ()
) -> SearchSpace | None:
    """Return what `resolve_space` gave before `symmetry` was a field, or before the space changed.

    None where the arguments could not make a study then. Of a space that was not always dihedral that is so where they
    name `symmetry`.
    """
    edition = earlier_edition(name)
    if "symmetry" not in assignments(fixed):
        fixed = (*fixed, "symmetry=dihedral")
    elif edition is None or load_space(name).fixed["symmetry"] != "dihedral":
        return None
    try:
        return resolve_space(name, backbone=backbone, weights=weights, fixed=fixed, edition=edition)
    except SpaceError:
        return None  # the command could not make a study then
