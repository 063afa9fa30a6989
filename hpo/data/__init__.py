"""Labelled images in any of the supported forms, decoded once into a shared memory map, split so that nothing leaks.

dataset                    the values that leave this package: Dataset, WholeData, Part
records                    the interface of a source: a listing of records, and one lazy read for each
folders, archives,         the sources: folders, zip, .npz (npy reads its arrays by rows), CSV
arrays, npy, tables
names, layout              the meaning of names; class folders and train/ val/ test/
signatures                 size, form, exposure and a small picture of each image
picture_hash, symmetries,  groups of images that show one picture, from their signatures
copy_candidates,
alignment, copy_groups
formats, decode, depth     image files; one image to (S, S, 3) uint8; images of 16 bits
pipeline                   many images, decoded in parallel and in order
cache, pack                the packed set on the disk
split                      which images train, validate and test
digests, origin            digests of images and data sets; the check that data are those of a study or a model
changes, findings          what was decided about single images; the table of findings that people edit
changed_pack               a pack as such decisions leave it
opening, stream            the entry points: open_dataset, open_whole; iter_images
sampled_images             a look at some images before anything is packed: inspect_data
summary                    the description of a data set, in lines and as JSON
synthetic, cell_drawing    synthetic blood cells
"""

from hpo.data.dataset import Dataset, Images, Labels, LeftOut, Part, PartName, Progress, Unreadable, WholeData
from hpo.data.decode import decode, fit, fit_array
from hpo.data.digests import ImageDigests, digest_of_part, split_digest
from hpo.data.folders import read_file
from hpo.data.opening import open_dataset, open_whole
from hpo.data.origin import DataOrigin
from hpo.data.split import SplitOptions
from hpo.data.stream import Batch, PathList, SampledImages, Skipped, iter_images, sample_images
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
    "SampledImages",
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
    "sample_images",
    "split_digest",
    "summarise",
    "summarise_part",
]
