"""Run other tools on the images of a folder, for the benchmark of the data doctor.

    .venv-rivals/bin/python -m benchmarks.doctor_rivals FOLDER OUT [--only NAME ...] [--weights FILE]

`make bench-doctor` installs the tools into `.venv-rivals`, beside the libraries of hpo, which uses none of
them. Each method runs with its published defaults unless its name says otherwise, and writes OUT/NAME.npz:

    files    (n,) names below FOLDER, sorted
    pairs    (p, 2) rows that the method calls copies of each other
    flagged  (f,) rows that it calls odd or outliers, if it does such a thing
    labels   (n,) quality of the label in [0, 1] (low is bad), if it judges labels
    suspects (s,) rows whose labels it calls wrong
    seconds, processor   wall and processor seconds, reading of the images included
    version, note

The embeddings come from OUT/embeddings.npy (n, d), or are made there with timm's mobilenetv2_035.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
BACKBONE = "mobilenetv2_035"
SIDE = 96
MOST_PAIRS = 20_000_000
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Folder:
    """Images in class folders, and where results go."""

    path: Path
    out: Path
    weights: Path | None
    files: tuple[str, ...]

    def labels(self) -> npt.NDArray[np.int64]:
        """Return the class of each file as a number, from the folder that it lies in."""
        names = [Path(file).parent.name for file in self.files]
        return np.unique(names, return_inverse=True)[1]

    def rows(self) -> dict[str, int]:
        """Return file -> row, by the path below the folder and by the absolute path."""
        below = {file: row for row, file in enumerate(self.files)}
        return below | {str((self.path / file).resolve()): row for file, row in below.items()}

    def images(self, side: int) -> Iterator[Image.Image]:
        """Yield the images as RGB squares."""
        for file in self.files:
            with Image.open(self.path / file) as image:
                yield image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)

    def embeddings(self) -> Floats:
        """Return the embeddings (n, d), made on the first call."""
        kept = self.out / "embeddings.npy"
        if not kept.exists():
            np.save(kept, embed(self))
        found: Floats = np.load(kept)
        return found


@dataclass
class Answer:
    """What a method says."""

    pairs: list[tuple[int, int]] | npt.NDArray[np.integer[Any]] = field(default_factory=list)
    flagged: list[int] | None = None
    labels: Floats | None = None
    suspects: list[int] | None = None
    package: str = ""
    note: str = ""


def embed(folder: Folder) -> Floats:
    """Return pooled features of the ImageNet backbone, 96 px."""
    import timm
    import torch

    net = timm.create_model(BACKBONE, num_classes=0)
    if folder.weights:
        from safetensors.torch import load_file

        net.load_state_dict(load_file(folder.weights), strict=False)
    net.eval()
    found, batch = [], []
    with torch.inference_mode():
        for row, image in enumerate(folder.images(SIDE)):
            batch.append(np.asarray(image))
            if len(batch) == 128 or row == len(folder.files) - 1:
                pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1
                found.append(net(pixels).numpy())
                batch = []
    return np.concatenate(found)


def grouped(groups: Iterable[Iterable[int]]) -> list[tuple[int, int]]:
    """Return all pairs within groups."""
    return sorted({pair for group in groups for pair in combinations(sorted(group), 2)})


def cleanvision(folder: Folder) -> Answer:
    """Run cleanvision with all its checks."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder.path))
    with contextlib.redirect_stdout(io.StringIO()):
        lab.find_issues(n_jobs=1, verbose=False)
    row = folder.rows()
    sets = [found for kind in ("exact_duplicates", "near_duplicates") for found in lab.info[kind]["sets"]]
    odd = [name for name in lab.issues if name.startswith("is_") and "duplicates" not in name and name != "is_issue"]
    flagged = lab.issues.index[lab.issues[odd].any(axis=1)]
    pairs = grouped([row[str(Path(name).resolve())] for name in found] for found in sets)
    return Answer(pairs, [row[str(Path(name).resolve())] for name in flagged], package="cleanvision")


def _neighbours(found: dict[str, list[str]], folder: Folder) -> npt.NDArray[np.integer[Any]]:
    row = folder.rows()
    pairs = [(row[name], row[other]) for name, others in found.items() for other in others if row[name] < row[other]]
    return np.asarray(pairs[:MOST_PAIRS], dtype=np.int32).reshape(-1, 2)


def _hashed(folder: Folder, distance: int) -> Answer:
    from imagededup.methods import PHash

    found = PHash(verbose=False).find_duplicates(
        image_dir=str(folder.path),
        recursive=True,
        max_distance_threshold=distance,
        num_enc_workers=0,
        num_dist_workers=0,
    )
    return Answer(_neighbours(found, folder), package="imagededup")


def imagededup_phash_10(folder: Folder) -> Answer:
    """Run imagededup's perceptual hash at its default Hamming distance."""
    return _hashed(folder, 10)


def imagededup_phash_4(folder: Folder) -> Answer:
    """Run imagededup's perceptual hash at Hamming distance 4."""
    return _hashed(folder, 4)


def _convolved(folder: Folder, similarity: float) -> Answer:
    from imagededup.methods import CNN
    from imagededup.utils import CustomModel

    # Its own MobileNetV3 would be downloaded; the embeddings are the same as every other method's here.
    config = CustomModel(name=BACKBONE, model=_Identity(), transform=_identity)
    method = CNN(verbose=False, model_config=config)
    encodings = dict(zip(folder.files, folder.embeddings(), strict=True))
    found = method.find_duplicates(encoding_map=encodings, min_similarity_threshold=similarity, num_sim_workers=0)
    return Answer(_neighbours(found, folder), package="imagededup", note=f"embeddings of {BACKBONE}")


class _Identity:
    """Stands for a network where embeddings exist already."""

    def to(self, device: Any) -> _Identity:
        return self

    def __call__(self, value: Any) -> Any:
        return value


def _identity(value: Any) -> Any:
    return value


def imagededup_cnn_90(folder: Folder) -> Answer:
    """Run imagededup's comparison of embeddings at its default cosine similarity."""
    return _convolved(folder, 0.9)


def imagededup_cnn_97(folder: Folder) -> Answer:
    """Run imagededup's comparison of embeddings at cosine similarity 0.97."""
    return _convolved(folder, 0.97)


def dataeval(folder: Folder) -> Answer:
    """Run DataEval's duplicates, by all hashes, and its outliers, by image statistics."""
    from dataeval.flags import ImageStats
    from dataeval.quality import Duplicates, Outliers

    images = [np.asarray(image).transpose(2, 0, 1) for image in folder.images(SIDE)]
    copies = Duplicates(flags=ImageStats.HASH).evaluate(images).data()
    odd = Outliers().evaluate(images).data()
    pairs = grouped(copies["item_indices"].to_list())
    return Answer(pairs, sorted(set(odd["item_index"].to_list())), package="dataeval", note=f"at {SIDE} px")


def dataeval_clusters(folder: Folder) -> Answer:
    """Run DataEval's outliers and duplicates by clusters of embeddings."""
    from dataeval.core import cluster
    from dataeval.quality import Duplicates, Outliers

    found = cluster(folder.embeddings())
    copies = Duplicates(cluster_sensitivity=1.0).from_clusters(found).data()
    odd = Outliers().from_clusters(folder.embeddings(), found).data()
    pairs = grouped(copies["item_indices"].to_list())
    note = f"embeddings of {BACKBONE}"
    return Answer(pairs, sorted(set(odd["item_index"].to_list())), package="dataeval", note=note)


def probabilities(features: Floats, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return out-of-fold class probabilities of a logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    found: npt.NDArray[np.float64] = cross_val_predict(probe, features, labels, cv=folds, method="predict_proba")
    return found


def cleanlab(folder: Folder) -> Answer:
    """Run cleanlab's Datalab on embeddings and out-of-fold probabilities."""
    from cleanlab import Datalab

    features, labels = folder.embeddings(), folder.labels()
    lab = Datalab({"label": labels}, label_name="label", verbosity=0)
    wanted: dict[str, dict[str, object]] = {"label": {}, "outlier": {}, "near_duplicate": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        lab.find_issues(pred_probs=probabilities(features, labels), features=features, issue_types=wanted)
    near = lab.get_info("near_duplicate")["near_duplicate_sets"]
    pairs = sorted({(min(row, int(o)), max(row, int(o))) for row, others in enumerate(near) for o in others})
    outlier = np.flatnonzero(lab.get_issues("outlier")["is_outlier_issue"]).tolist()
    issues = lab.get_issues("label")
    quality, wrong = issues["label_score"].to_numpy(dtype=np.float32), np.flatnonzero(issues["is_label_issue"]).tolist()
    note = f"embeddings of {BACKBONE}, logistic regression, 5 folds"
    return Answer(pairs, outlier, quality, wrong, "cleanlab", note)


def _dbscan(values: Floats, *, largest: bool = False) -> Answer:
    """Reduce to 50 components; eps is the knee of the sorted distances to the 5th neighbour.

    Noise is flagged; with `largest` everything outside the largest cluster, as a person does who looks at the clusters.
    """
    from sklearn.cluster import DBSCAN
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    reduced = PCA(min(50, *values.shape), random_state=0).fit_transform(values)
    distances = np.sort(NearestNeighbors(n_neighbors=6).fit(reduced).kneighbors(reduced)[0][:, 5])
    # The knee: the point of the curve that is farthest below the line between its ends.
    line = np.linspace(distances[0], distances[-1], len(distances))
    eps = float(distances[int(np.argmax(line - distances))])
    clusters = DBSCAN(eps=max(eps, 1e-6), min_samples=5).fit_predict(reduced)
    usual = np.bincount(clusters[clusters >= 0]).argmax() if (clusters >= 0).any() else -1
    flagged = clusters != usual if largest else clusters == -1
    note = f"eps {eps:.3g}, {clusters.max() + 1} clusters"
    return Answer([], np.flatnonzero(flagged).tolist(), package="scikit-learn", note=note)


def _pixels(folder: Folder) -> Floats:
    return np.stack([np.asarray(image, dtype=np.float32).reshape(-1) / 255 for image in folder.images(32)])


def pca_dbscan_pixels(folder: Folder) -> Answer:
    """Run PCA and DBSCAN on the pixels at 32 px."""
    return _dbscan(_pixels(folder))


def pca_dbscan_pixels_largest(folder: Folder) -> Answer:
    """Run PCA and DBSCAN on the pixels at 32 px; the largest cluster is kept."""
    return _dbscan(_pixels(folder), largest=True)


def pca_dbscan_embeddings(folder: Folder) -> Answer:
    """Run PCA and DBSCAN on the embeddings."""
    return _dbscan(folder.embeddings())


def pca_dbscan_embeddings_largest(folder: Folder) -> Answer:
    """Run PCA and DBSCAN on the embeddings; the largest cluster is kept."""
    return _dbscan(folder.embeddings(), largest=True)


METHODS: dict[str, Callable[[Folder], Answer]] = {
    "cleanvision": cleanvision,
    "imagededup-phash-10": imagededup_phash_10,
    "imagededup-phash-4": imagededup_phash_4,
    "imagededup-cnn-0.90": imagededup_cnn_90,
    "imagededup-cnn-0.97": imagededup_cnn_97,
    "dataeval": dataeval,
    "dataeval-clusters": dataeval_clusters,
    "cleanlab": cleanlab,
    "pca-dbscan-pixels": pca_dbscan_pixels,
    "pca-dbscan-embeddings": pca_dbscan_embeddings,
    "pca-dbscan-pixels-largest": pca_dbscan_pixels_largest,
    "pca-dbscan-embeddings-largest": pca_dbscan_embeddings_largest,
}


def run(name: str, folder: Folder) -> None:
    """Run one method and write what it says."""
    load = os.getloadavg()[0]
    began, processor = time.perf_counter(), time.process_time()
    answer = METHODS[name](folder)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    arrays: dict[str, npt.ArrayLike] = {
        "files": np.asarray(folder.files),
        "pairs": np.asarray(answer.pairs, dtype=np.int32).reshape(-1, 2),
        "seconds": seconds,
        "processor": processor,
        "load": load,
        "version": _version(answer.package),
        "note": answer.note,
    }
    if answer.flagged is not None:
        arrays["flagged"] = np.asarray(answer.flagged, dtype=np.int32)
    if answer.suspects is not None:
        arrays["suspects"] = np.asarray(answer.suspects, dtype=np.int32)
    if answer.labels is not None:
        arrays["labels"] = answer.labels
    np.savez_compressed(folder.out / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    flagged = "" if answer.flagged is None else f", {len(answer.flagged)} flagged"
    print(f"{name}: {len(answer.pairs)} pairs{flagged}, {seconds:.1f} s ({processor:.1f} s processor)", flush=True)


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def main() -> None:
    """Run the methods whose results are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--weights", type=Path, help="safetensors of the backbone; random weights without it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = sorted(p.relative_to(options.folder).as_posix() for p in options.folder.rglob("*"))
    files = tuple(name for name in found if name.lower().endswith(SUFFIXES))
    folder = Folder(options.folder, options.out, options.weights, files)
    began = time.perf_counter()
    folder.embeddings()
    print(f"embeddings: {time.perf_counter() - began:.1f} s", flush=True)
    for name in options.only:
        if not (options.out / f"{name}.npz").exists():
            run(name, folder)


if __name__ == "__main__":
    main()
