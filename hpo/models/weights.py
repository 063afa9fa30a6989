"""Loading of weights from a file into a backbone: the file fills every tensor of the backbone, or it is refused.

The report says which of several models in the file was taken, which tensors were adapted to another shape, and which
were not needed.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpo.data.names import shortened
from hpo.errors import ModelError
from hpo.models.weights_file import read_tensors, weights_digest, weights_file

PREFIXES = (
    "state_dict", "model_state_dict", "model", "module", "backbone", "encoder", "net", "network", "base_model",
    "timm_model", "trunk", "visual",
)  # fmt: skip
"""Keys under which wrappers and training scripts put a backbone's tensors; tried if the names do not fit."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that torch inserts into names at any level when it compiles or shards a module."""

AVERAGE = re.compile(r"(?:^|[^a-z])(?:ema|swa|averaged?)(?:[^a-z]|$)")
"""Keys of the moving average of weights, which the training script evaluated."""

HALF = 0.5
"""Least share of the backbone's names that a part of the file must have to count as a model of this kind."""

WITHOUT_STATISTICS = ("group", "layer")
"""Normalisations that take over only scale and shift of a BatchNorm."""

EXAMPLES = 3

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class WeightsReport:
    """Report on loading a weights file; the counts are of tensors of the backbone."""

    file: str
    digest: str
    """sha256 of the file."""
    loaded: int
    total: int
    """Tensors that the backbone has."""
    missing: int
    """Tensors of the backbone that the file lacks: statistics of a BatchNorm that is exchanged."""
    unexpected: int
    """Tensors of the file that belong neither to the backbone nor to its classifier."""
    mismatched: int
    """Tensors of both with different shapes; always 0, since such a file is refused."""
    examples: tuple[str, ...] = ()
    """A few names of the unexpected tensors."""
    taken: str = ""
    """Key of the file under which the tensors lie; empty if they lie at the top."""
    left: tuple[str, ...] = ()
    """Keys of the other content of the file."""
    adapted: tuple[str, ...] = ()
    """Tensors that had another shape, each with its conversion in words."""
    grey: bool = False
    """Whether the weights take images of one channel."""
    description: str | None = None
    """The file that mean and std were read from; None if they are timm's for the backbone."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        lists = {name: list(getattr(self, name)) for name in ("examples", "left", "adapted")}
        return {**asdict(self), **lists}

    def __str__(self) -> str:
        parts = [f"{self.file}: {self.loaded} of {self.total} tensors loaded"]
        if self.taken:
            average = " (the moving average)" if _is_average(self.taken) else ""
            parts.append(f"taken from {self.taken}{average}")
        if self.left:
            parts.append(f"left out: {', '.join(self.left)}")
        parts += [f"adapted: {note}" for note in self.adapted]
        if self.unexpected:
            parts.append(f"not needed: {shortened(self.examples, EXAMPLES, total=self.unexpected)}")
        if self.missing:
            parts.append(f"{self.missing} statistics of BatchNorm are missing, which the normalisation does without")
        if self.description:
            parts.append(f"mean and std of {self.description}")
        return "; ".join(parts)


def load_weights(backbone: nn.Module, name: str, path: Path, normalisation: str = "native") -> WeightsReport:
    """Load `path` into `backbone`, a timm model called `name` that was built without a classifier.

    Raises ModelError if the file cannot be read, holds two models, or does not fill every tensor of the backbone with
    finite values of its shape. Statistics of BatchNorm may be missing if `normalisation` does not use them.
    """
    file = weights_file(path)
    wanted = _without_counts(backbone.state_dict())
    chosen = _chosen(_unwrapped(_without_counts(read_tensors(file)), file), wanted, file)
    classifier = _classifier(backbone)
    resized, adapted = _resized(chosen.tensors, wanted, backbone, classifier)
    found, grey = _coloured(resized, wanted, backbone)
    unexpected = sorted(key for key in found if key not in wanted and not key.startswith(classifier))
    _check_whole(found, wanted, _spared(wanted, normalisation), f"weights {path}", name)
    _check_no_more(unexpected, found, backbone, f"weights {path}", name)
    filling = {key: _checked(key, found[key], value, path) for key, value in wanted.items() if key in found}
    backbone.load_state_dict(filling, strict=False)
    return WeightsReport(
        file=str(file),
        digest=weights_digest(file),
        loaded=len(filling),
        total=len(wanted),
        missing=len(wanted) - len(filling),
        unexpected=len(unexpected),
        mismatched=0,
        examples=tuple(unexpected[:EXAMPLES]),
        taken=chosen.key,
        left=tuple(key for key in chosen.left if not f"{key}.".startswith(classifier)),
        adapted=(*adapted, *(f"{key}, of grey images: its one channel over three, a third each" for key in grey)),
        grey=bool(grey),
    )


@dataclass(frozen=True)
class _Chosen:
    """One model of a file: its key, its tensors by the backbone's names, and the keys of the rest."""

    key: str
    left: tuple[str, ...]
    tensors: Tensors


def _without_counts(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def _unwrapped(tensors: Tensors, path: Path) -> Tensors:
    """Return the tensors without torch's wrappers in their names."""
    wrapper = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(WRAPPERS)})\.")
    return _united(((wrapper.sub("", name), name, value) for name, value in tensors.items()), path)


def _united(named: Iterable[tuple[str, str, Tensor]], path: Path) -> Tensors:
    """Return new name -> tensor from triples (new name, name in the file, tensor).

    Raises ModelError if two different tensors get the same name.
    """
    sources: dict[str, str] = {}
    found: Tensors = {}
    for new, old, value in named:
        if new in found and not _same(found[new], value):
            raise ModelError(
                f"weights {path}: {sources[new]} and {old} are both {new}, with different values: "
                "two models in one file; save one of them alone"
            )
        found[new], sources[new] = value, old
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _chosen(tensors: Tensors, wanted: Tensors, path: Path) -> _Chosen:
    """Choose the one model in the file that has the backbone's names, or the moving average of several.

    A file of other names is taken whole, without usual prefixes. Raises ModelError if there are several models and
    not exactly one of them is an average.
    """
    held = _models(tensors, wanted)
    taken = _taken(held, tensors, wanted, path) if held else ""
    beside = tuple(key for key in held if key != taken and not taken.startswith(key))
    own = {name: value for name, value in tensors.items() if not name.startswith(beside)}
    found, outside = _renamed(own, taken, wanted, path)
    left = dict.fromkeys([*(key.rstrip(".") for key in beside), *(_beside(name, taken) for name in outside)])
    return _Chosen(taken.rstrip("."), tuple(left), found)


def _renamed(own: Tensors, taken: str, wanted: Tensors, path: Path) -> tuple[Tensors, list[str]]:
    """Return the model's tensors by the backbone's names, and the names in the file of those that are left out."""
    bare = {name: _bare(name.removeprefix(taken), wanted) for name in own}
    found = _united(((bare[name], name, value) for name, value in own.items()), path)
    outside = [name for name in own if not name.startswith(taken) and bare[name] not in wanted]
    for name in outside:
        found.pop(bare[name], None)
    return found, outside


def _beside(name: str, taken: str) -> str:
    """Return the key of a tensor that is left out, up to the first part that differs from `taken`, the model's key."""
    parts = name.split(".")
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(parts, taken.split("."), strict=False))
    return ".".join(parts[: 1 + sum(1 for _ in shared)])


def _models(tensors: Tensors, wanted: Tensors) -> dict[str, int]:
    """Return key (with a final dot) -> how many of the backbone's names lie under it, if that is HALF or more."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    return {key: count for key, count in counts.items() if count >= HALF * len(wanted)}


def _taken(held: dict[str, int], tensors: Tensors, wanted: Tensors, path: Path) -> str:
    """Return the key of the model to take: the moving average if there is one, as timm does."""
    most = max(held.values())
    distinct: list[str] = []
    for key in (key for key, count in held.items() if count == most):
        if not any(_equal(tensors, wanted, key, other) for other in distinct):
            distinct.append(key)
    chosen = [key for key in distinct if _is_average(key)] or distinct
    if len(chosen) > 1:
        names = ", ".join(key.rstrip(".") or "no key" for key in chosen[:4])
        raise ModelError(f"weights {path}: {len(chosen)} models in one file, under {names}; save one of them alone")
    return chosen[0]


def _equal(tensors: Tensors, wanted: Tensors, one: str, other: str) -> bool:
    """Return whether two models of the file hold the same values, as when a file names one model twice."""
    common = [name for name in wanted if one + name in tensors and other + name in tensors]
    return all(_same(tensors[one + name], tensors[other + name]) for name in common)


def _is_average(key: str) -> bool:
    return AVERAGE.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()) is not None


def _bare(name: str, wanted: Tensors) -> str:
    """Return `name` without usual prefixes; a name that the backbone itself has stays."""
    while name not in wanted:
        prefix, _, rest = name.partition(".")
        if prefix not in PREFIXES or not rest:
            break
        name = rest
    return name


def _classifier(backbone: nn.Module) -> tuple[str, ...]:
    """Return prefixes of names of classifiers: those of this network, and the head of a bundle."""
    named = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (*(f"{name}." for name in ([named] if isinstance(named, str) else named)), "head.")


def _spared(wanted: Tensors, normalisation: str) -> set[str]:
    """Return the names of the backbone's tensors that may be missing."""
    if normalisation not in WITHOUT_STATISTICS:
        return set()
    return {key for key in wanted if key.endswith((".running_mean", ".running_var"))}


def _resized(
    found: Tensors, wanted: Tensors, backbone: nn.Module, classifier: tuple[str, ...]
) -> tuple[Tensors, list[str]]:
    """Return the tensors in the backbone's names and shapes, as far as timm can convert them, and the changes in words.

    timm's own conversion for the network is tried if some tensor does not fit: it resizes position embeddings and
    tables of relative positions, and maps the names of the original publications.
    """
    more = any(name not in wanted and not name.startswith(classifier) for name in found)
    converted = _converted(found, wanted, backbone) if more or _misfits(found, wanted) else found
    changed = [name for name in wanted if name in found and converted[name].shape != found[name].shape]
    return converted, [f"{name}, from {_shape(found[name])} to {_shape(converted[name])}" for name in changed]


def _coloured(found: Tensors, wanted: Tensors, backbone: nn.Module) -> tuple[Tensors, list[str]]:
    """Return the tensors with each first layer of grey images spread over three channels, and those layers' names.

    Each channel gets a third of the weight, so three equal channels give the output that one gave. Layers that
    standardise their weights (timm's StdConv2d and similar) are left out, since they would undo the factor.
    """
    plain = {f"{path}.weight" for path, part in backbone.named_modules() if "StdConv" not in type(part).__name__}
    shapes = {n: wanted[n].shape for n in plain & wanted.keys() if wanted[n].ndim == 4 and wanted[n].shape[1] == 3}
    grey = [n for n, shape in sorted(shapes.items()) if n in found and found[n].shape == (shape[0], 1, *shape[2:])]
    return {**found, **{name: found[name].float().repeat(1, 3, 1, 1) / 3 for name in grey}}, grey


def _converted(found: Tensors, wanted: Tensors, backbone: nn.Module) -> Tensors:
    """Return `found` after timm's filter for checkpoints of this network; unchanged if there is none or it fails."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return found
    try:
        converted: Tensors = convert(dict(found), backbone)
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError):
        return found  # `_check_whole` names the tensors that do not fit
    lost = any(name in found and name not in converted for name in wanted)
    return found if lost or _misfits(converted, wanted) > _misfits(found, wanted) else converted


def _misfits(found: Tensors, wanted: Tensors) -> int:
    return sum(name not in found or found[name].shape != value.shape for name, value in wanted.items())


def _check_whole(found: Tensors, wanted: Tensors, spared: set[str], where: str, name: str) -> None:
    """Raise ModelError unless every tensor of the backbone is in `found` with its shape."""
    missing = sorted(wanted.keys() - found.keys() - spared)
    shaped = sorted(key for key in wanted.keys() & found.keys() if found[key].shape != wanted[key].shape)
    if not missing and not shaped:
        return
    fitting = len(wanted) - len(missing) - len(shaped)
    faults = [f"{key} is {_shape(found[key])}, but must be {_shape(wanted[key])}" for key in shaped[:EXAMPLES]]
    if missing:
        faults.append(f"missing: {shortened(missing, EXAMPLES)}")
    if missing and all(key.endswith((".running_mean", ".running_var")) for key in missing):
        faults.append("statistics of BatchNorm: these weights need --set normalisation=group or layer")
    raise ModelError(
        f"{where} fit {fitting} of {len(wanted)} tensors of {name}, but must fit all of them ({'; '.join(faults)}); "
        f"give the weights of {name}, or the backbone that they are of"
    )


def _check_no_more(unexpected: list[str], found: Tensors, backbone: nn.Module, where: str, name: str) -> None:
    """Raise ModelError if the file holds more of the network's own parts: then it is of a larger network."""
    parts = tuple(f"{child}." for child, _ in backbone.named_children())
    more = [key for key in unexpected if key.startswith(parts) and found[key].is_floating_point()]
    if not more and len(unexpected) <= 0.1 * len(backbone.state_dict()):
        return
    more = more or unexpected
    raise ModelError(
        f"{where} fill {name}, but hold {len(more)} tensors more ({shortened(more, EXAMPLES)}): they are "
        "of a larger architecture; give the backbone that they are of"
    )


def _checked(name: str, value: Tensor, wanted: Tensor, path: Path) -> Tensor:
    """Return `value` in the type of `wanted`; raise ModelError unless it holds plain finite numbers."""
    kind = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ModelError(f"weights {path}: {name} is sparse, quantised or without values; save plain tensors")
    if wanted.is_floating_point() and not (value.is_floating_point() and value.itemsize > 1):
        raise ModelError(f"weights {path}: {name} is of {kind}, but must be of float32, float16 or bfloat16")
    if not wanted.is_floating_point() and value.dtype != wanted.dtype:
        raise ModelError(f"weights {path}: {name} is of {kind}, but must be of {wanted.dtype}")
    plain = value.to(wanted.dtype)
    if not torch.isfinite(plain).all():
        raise ModelError(f"weights {path}: {name} holds NaN or infinity; give weights of a run that did not diverge")
    if name.endswith("running_var") and (plain < 0).any():
        raise ModelError(f"weights {path}: {name} is a variance, but holds values below 0; give other weights")
    return plain


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))
