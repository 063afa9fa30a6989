"""Audit of the database: triggers record every change of a trial, by any program.

    state      a trial became RUNNING, WAITING, COMPLETE, …         from a row of `trials`
    report     a value was reported, or written over an earlier one  from `trial_intermediate_values`
    unleased   a transaction committed a RUNNING trial of the study that has no lease to expire

The last is checked at each COMMIT, so that even the shortest moment is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.sql import Sql

_INSTALL = """
CREATE TABLE chaos_audit (
    id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL, trial_id int NOT NULL, what text NOT NULL);

CREATE FUNCTION chaos_state() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' OR OLD.state IS DISTINCT FROM NEW.state THEN
        INSERT INTO chaos_audit (kind, trial_id, what) VALUES ('state', NEW.trial_id, NEW.state::text);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_state AFTER INSERT OR UPDATE ON trials FOR EACH ROW EXECUTE FUNCTION chaos_state();

CREATE FUNCTION chaos_report() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_audit (kind, trial_id, what) VALUES ('report', NEW.trial_id, NEW.step::text);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_report AFTER INSERT OR UPDATE ON trial_intermediate_values
    FOR EACH ROW EXECUTE FUNCTION chaos_report();

CREATE FUNCTION chaos_unleased() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM 1 FROM trials t WHERE t.trial_id = {trial} AND t.state = 'RUNNING'
        AND NOT EXISTS (SELECT FROM hpo_leases l WHERE l.trial_id = t.trial_id AND l.state = 'held');
    IF FOUND THEN INSERT INTO chaos_audit (kind, trial_id, what) VALUES ('unleased', {trial}, TG_TABLE_NAME); END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER chaos_unleased AFTER INSERT OR UPDATE ON trials DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION chaos_unleased();
CREATE CONSTRAINT TRIGGER chaos_unleased AFTER UPDATE OR DELETE ON hpo_leases DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION chaos_unleased();
""".replace("{trial}", "(CASE TG_OP WHEN 'DELETE' THEN OLD.trial_id ELSE NEW.trial_id END)")


@dataclass(frozen=True)
class Note:
    """One record of the audit."""

    kind: str
    trial: int
    """Number of the trial in the study."""
    what: str


def install(sql: Sql) -> None:
    """Install the triggers in a database that has optuna's tables and hpo's."""
    sql(_INSTALL)


def notes(sql: Sql) -> list[Note]:
    """Return the records of the first study in the database, in order."""
    rows = sql(
        "SELECT kind, number, what FROM chaos_audit JOIN trials USING (trial_id) "
        "WHERE study_id = (SELECT min(study_id) FROM studies) ORDER BY chaos_audit.id"
    )
    return [Note(*row) for row in rows]
