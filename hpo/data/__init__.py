"""Labelled images from wherever they lie, decoded once into a shared memory map, split so that nothing leaks.

records, sources           what a source gives; which kind lies at a path
folders, archives,         the kinds: folders, zip, .npz (npy: its arrays by rows), CSV
arrays, npy, tables
names, layout              what a name means; class folders and train/ val/ test/
decode, pipeline           one image to (S, S, 3) uint8; many, in parallel and in order
manifest, cache, pack      the packed set on disk
split                      who trains, who validates, who is locked away
known, origin              which images made a study or a model, and the check that data are the same
opening, stream            the doors: open_dataset, open_whole, iter_images
summary                    what was understood of a data set, in lines and as JSON
"""

from hpo.data.dataset import Dataset, Images, Labels, LeftOut, Part, PartName, Progress, Unreadable, WholeData
from hpo.data.decode import decode, fit, fit_array
from hpo.data.digests import ImageDigests, digest_of_part, split_digest
from hpo.data.folders import read_file
from hpo.data.opening import open_dataset, open_whole
from hpo.data.origin import DataOrigin
from hpo.data.split import SplitOptions
from hpo.data.stream import Batch, PathList, Skipped, iter_images
from hpo.data.summary import DataSummary, summarise, summarise_part

__all__ = [
    "Batch",
    "DataOrigin",
    "DataSummary",
    "Dataset",
    "ImageDigests",
    "Images",
    "Labels",
    "LeftOut",
    "Part",
    "PartName",
    "PathList",
    "Progress",
    "Skipped",
    "SplitOptions",
    "Unreadable",
    "WholeData",
    "decode",
    "digest_of_part",
    "fit",
    "fit_array",
    "iter_images",
    "open_dataset",
    "open_whole",
    "read_file",
    "split_digest",
    "summarise",
    "summarise_part",
]
