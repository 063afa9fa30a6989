"""Whether this machine, the database and a study are fit to work: the looks behind `hpo doctor`."""

from hpo.health.check import Check
from hpo.health.examination import Subject, examine

__all__ = ["Check", "Subject", "examine"]
