"""What `hpo doctor` examines: whether this machine, the database and a study are fit to work."""

from hpo.doctor.check import Check
from hpo.doctor.examination import Subject, examine

__all__ = ["Check", "Subject", "examine"]
