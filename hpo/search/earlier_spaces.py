"""Shipped spaces as they were in earlier versions: the command that made a study then still continues it.

Before `symmetry` was a field, all spaces mirrored and turned images; `quick`, `standard` and `thorough` had no mixture
of families at first. A study holds the fingerprint of its space, by which the edition that it was made with is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from hpo.search.plan import Plan
from hpo.search.resolved_space import assignments, resolve_space
from hpo.search.symmetry_choice import symmetry_of
from search_spaces import SearchSpace, SpaceError, earlier_edition, load_space, read_space
from storage import Database, has_spec, open_study, read_spec, study_names


def with_earlier_space(db: Database, plan: Plan) -> tuple[Plan, str | None]:
    """Return the plan with the space that the study was made with, and a line that tells the user so, or None.

    Before `symmetry` was a field, all spaces mirrored and turned images, and shipped spaces have changed since. The
    command that made a study then still continues it that way.
    """
    found = open_study(db, plan.study) if plan.earlier and plan.study in study_names(db) else None
    earlier = _edition_of(found, plan.earlier) if found is not None and has_spec(found) else None
    if earlier is None or earlier.fingerprint == plan.space.fingerprint:
        return plan, None
    own = {name: value for name, value in earlier.fixed.items() if plan.space.fixed.get(name) != value}
    values = f": {', '.join(f'{name}={value}' for name, value in own.items())}" if own else ""
    when = "when all images were mirrored and turned" if "symmetry" in own else f"with an earlier {earlier.name}"
    return replace(plan, space=earlier), f"study {plan.study} was made {when}, and goes on so{values}"


def _edition_of(study: optuna.Study, editions: Sequence[SearchSpace]) -> SearchSpace | None:
    """Return the edition that a study was made with; None where it is none of these.

    A study that measured its symmetry holds the space with it. Such a study is of a version that did not take dihedral
    for granted, so only editions that leave the symmetry open can be its own.
    """
    made_with = read_spec(study).space_fingerprint
    recorded = symmetry_of(study) or {}
    if recorded.get("source") not in ("measured", "assumed"):
        return next((one for one in editions if one.fingerprint == made_with), None)
    chosen = {"symmetry": recorded["symmetry"]}
    open_ones = (one for one in editions if one.assumes_symmetry)
    return next((one for one in open_ones if one.with_fixed(chosen).fingerprint == made_with), None)


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
