"""Learner: a batch that does not fit into the memory is learnt in pieces with the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hpo.errors import InfeasibleError
from hpo.models import build_model
from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat
from hpo.seeds import derive_seed
from hpo.training import FitData, Runtime, fit
from hpo.training.learner import Learner
from hpo.training.loss import build_loss, build_mixer
from search_spaces import TrialConfig

pytestmark = pytest.mark.usefixtures("short_collections")

Make = Callable[..., TrialConfig]
BATCH, CLASSES = 8, 3
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0])
WITHOUT_BATCH_STATISTICS = "test_convnext"


@dataclass
class LimitedMemory:
    """Simulates a memory in which module number `place` of a network fits at most `most` images."""

    most: int
    place: int = -1
    backward: bool = False
    failures: list[int] = field(default_factory=list)

    def limit(self, model: Classifier) -> None:
        module = [part for part in model.modules() if not list(part.children())][self.place]
        if self.backward:
            module.register_full_backward_pre_hook(lambda _, gradients: self._check(gradients[0]))
        else:
            module.register_forward_pre_hook(lambda _, inputs: self._check(inputs[0]))

    def _check(self, values: Tensor) -> None:
        if len(values) > self.most:
            self.failures.append(len(values))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


@dataclass
class Learning:
    """A learner and its model."""

    config: TrialConfig
    memory: LimitedMemory | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = build_model(self.config, CLASSES).model
        if self.memory is not None:
            self.memory.limit(self.model)
        criterion = build_loss(self.config, LABELS, CLASSES)
        self.learner = Learner(self.config, self.model, criterion, ComputeFormat(), per_epoch=20, cache=self.cache)
        self.learner.enter_training_mode()

    def learn(self, steps: int = 1) -> list[float]:
        return [float(self.learner.learn(*batch(self.config, step))) for step in range(steps)]

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])

    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def batch(config: TrialConfig, number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    shape = (BATCH, 3, 3) if config.augmix_consistency else (BATCH, 3)
    images = torch.randn(*shape, config.image_size, config.image_size, generator=generator)
    mixer = build_mixer(config, CLASSES)
    labels = torch.from_numpy(LABELS)
    return (images, labels) if mixer is None else mixer(images, labels, derive_seed(0, number))


def assert_equal(first: Learning, second: Learning) -> None:
    """Compare bit for bit everything that the learners resume from."""
    ours, theirs = first.learner.tensors(), second.learner.tensors()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first.learner.to_dict() == second.learner.to_dict()


def distance(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).detach().norm() / expected.detach().norm())


def stored_size(config: TrialConfig, images: int, cache: Path) -> Path:
    """Write a cache in which `images` fit at a time."""
    Learning(config, LimitedMemory(images), cache).learn()
    return cache


LOSSES: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "smoothed": {"label_smoothing": 0.1},
    "inverse": {"class_weights": "inverse"},
    "effective": {"class_weights": "effective", "label_smoothing": 0.1},
    "focal": {"loss": "focal"},
    "focal-inverse": {"loss": "focal", "focal_gamma": 1.5, "class_weights": "inverse"},
    "mixed": {"mixup": 0.4, "cutmix": 1.0},
    "mixed-focal-inverse": {"mixup": 0.4, "loss": "focal", "class_weights": "inverse", "label_smoothing": 0.1},
    "l1": {"l1": 0.01, "head_layers": 1},
    "l2": {"l2": 0.01, "head_layers": 1},
    "balanced": {"loss": "balanced-softmax", "label_smoothing": 0.1},
}


@pytest.mark.parametrize("choices", LOSSES.values(), ids=LOSSES)
def test_the_gradient_of_the_pieces_equals_that_of_the_batch(config: Make, choices: dict[str, Any]) -> None:
    settings = config(backbone=WITHOUT_BATCH_STATISTICS, **choices)
    whole, cut = Learning(settings), Learning(settings, LimitedMemory(3))
    assert cut.learn() == pytest.approx(whole.learn(), rel=1e-6)
    assert (whole.learner.micro_batch, cut.learner.micro_batch) == (None, 2)
    assert distance(cut.gradient(), whole.gradient()) < 1e-6


def test_the_views_of_an_image_stay_in_one_piece(config: Make) -> None:
    settings = config(backbone=WITHOUT_BATCH_STATISTICS, augmix=1.0, augmix_consistency=12.0)
    memory = LimitedMemory(9)
    whole, cut = Learning(settings), Learning(settings, memory)
    assert cut.learn() == pytest.approx(whole.learn(), rel=1e-5)
    assert memory.failures == [3 * 8, 3 * 4]
    assert cut.learner.micro_batch == 2
    assert distance(cut.gradient(), whole.gradient()) < 1e-5


@pytest.mark.parametrize("optimiser", ["adamw", "rmsprop", "lion", "sgd", "adam", "nadam"])
def test_every_optimiser_takes_one_equal_step_in_pieces(config: Make, optimiser: str) -> None:
    settings = config(
        backbone=WITHOUT_BATCH_STATISTICS,
        optimiser=optimiser,
        learning_rate=1e-4,
        gradient_clip=0.5,
        ema=0.9,
        warmup=0.5,
    )
    before = Learning(settings).weights()
    whole, cut = Learning(settings), Learning(settings, LimitedMemory(4))
    whole.learn(3)
    cut.learn(3)
    assert cut.learner.updates == whole.learner.updates == 3
    assert cut.learner.learning_rate == whole.learner.learning_rate
    # Optimisers that divide by the gradient's size make one of rounding errors where a gradient is almost 0.
    assert distance(cut.weights() - before, whole.weights() - before) < 0.02
    averages = (torch.cat([p.flatten() for p in learning.learner.evaluated.parameters()]) for learning in (cut, whole))
    assert distance(*(average - before for average in averages)) < 0.02


FAULTS = [(place, backward, {}) for place in (0, 6, -1) for backward in (False, True)]
HALF = {"ema": 0.9, "optimiser": "sgd", "unfreeze_depth": 0.5}


@pytest.mark.parametrize(("place", "backward", "choices"), [*FAULTS, (6, False, HALF), (-1, True, HALF)])
def test_a_failed_step_leaves_no_trace(
    config: Make, tmp_path: Path, place: int, backward: bool, choices: dict[str, Any]
) -> None:
    """BatchNorm's statistics, dropout's numbers and the weights equal those of a run that began with that size."""
    settings = config(dropout=0.3, drop_path=0.2, **choices)
    with_known_size = Learning(settings, cache=stored_size(settings, 3, tmp_path))
    expected = with_known_size.learn(3)
    drawn = torch.rand(3)
    memory = LimitedMemory(3, place, backward)
    failing = Learning(settings, memory)
    assert failing.learn(3) == expected
    assert memory.failures == [8, 4]
    assert torch.equal(torch.rand(3), drawn)
    assert_equal(failing, with_known_size)


def test_statistics_of_pieces_stay_near_those_of_batches(config: Make) -> None:
    settings = config(learning_rate=1e-6, optimiser="sgd")
    whole, cut = Learning(settings), Learning(settings, LimitedMemory(4))
    whole.learn(10)
    cut.learn(10)
    ours, theirs = (
        torch.cat([value for name, value in learning.model.named_buffers() if name.endswith("running_var")])
        for learning in (cut, whole)
    )
    assert distance(ours, theirs) < 0.05


def test_a_size_is_stored_for_the_next_run(config: Make, tmp_path: Path) -> None:
    cache = stored_size(config(), 4, tmp_path)
    next_run = LimitedMemory(4)
    learning = Learning(config(optimiser="sgd", dropout=0.1), next_run, cache)
    learning.learn()
    assert (learning.learner.micro_batch, next_run.failures) == (4, [])
    other = LimitedMemory(4)
    Learning(config(unfreeze_depth=0.5), other, cache).learn()
    assert other.failures == [8]


def test_a_resumed_run_keeps_its_size(config: Make, tmp_path: Path) -> None:
    first, second = (
        Learning(config(), LimitedMemory(4)),
        Learning(config(), cache=stored_size(config(), 2, tmp_path)),
    )
    first.learn()
    second.learner.restore(first.learner.tensors(), json.loads(json.dumps(first.learner.to_dict())))
    second.learn()
    assert second.learner.micro_batch == 4


@pytest.mark.parametrize(
    ("backbone", "most", "smallest"), [("test_resnet", 1, "2 images"), (WITHOUT_BATCH_STATISTICS, 0, "1 image")]
)
def test_a_trial_is_infeasible_if_the_smallest_piece_does_not_fit(
    config: Make, backbone: str, most: int, smallest: str
) -> None:
    learning, untouched = (
        Learning(config(backbone=backbone), LimitedMemory(most)),
        Learning(config(backbone=backbone)),
    )
    state = torch.get_rng_state()
    with pytest.raises(InfeasibleError) as ended:
        learning.learn()
    assert ended.value.reason.startswith(f"{backbone} at 32 px on cpu ")
    assert ended.value.reason.endswith(
        f"a step does not fit into the memory, not even with {smallest}: CUDA out of memory. Tried to allocate 2 GiB."
    )
    assert all(parameter.grad is None for parameter in learning.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(learning.weights(), untouched.weights())
    assert all(
        torch.equal(*buffers) for buffers in zip(learning.model.buffers(), untouched.model.buffers(), strict=True)
    )


@contextmanager
def full_at_the_update() -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = register_optimizer_step_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def test_an_update_that_does_not_fit_is_infeasible(config: Make) -> None:
    """Smaller pieces of the batch do not make the optimiser's state smaller."""
    learning = Learning(config())
    with full_at_the_update(), pytest.raises(InfeasibleError, match=r"the optimiser's step of test_resnet .* not fit"):
        learning.learn()


def test_other_errors_pass(config: Make) -> None:
    learning = Learning(config())
    with pytest.raises(RuntimeError, match="expected input"):
        learning.learner.learn(torch.randn(BATCH, 5, 32, 32), torch.from_numpy(LABELS))
    assert learning.learner.micro_batch is None


def test_a_run_without_pieces_resumes(config: Make, data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(backbone=WITHOUT_BATCH_STATISTICS, epochs=2, ema=0.9)
    expected = [result.train_loss for result in fit(settings, data, Runtime())]
    whole = Classifier.forward

    def forward(self: Classifier, images: Tensor) -> Tensor:
        if self.training and len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, images)

    monkeypatch.setattr(Classifier, "forward", forward)
    assert [result.train_loss for result in fit(settings, data, Runtime())] == pytest.approx(expected, rel=1e-4)


REAL = """
import resource
import numpy as np, psutil, torch
from hpo.models import build_model
from hpo.training.learner import Learner
from hpo.training.loss import build_loss
from hpo.models.compute_format import ComputeFormat
from search_spaces import TrialConfig

torch.set_num_threads(1)
torch.manual_seed(0)
config = TrialConfig(backbone="test_efficientnet_ln", pretrained=False, image_size=64)
model, criterion = build_model(config, 3).model, build_loss(config, np.arange(3), 3)
learner = Learner(config, model, criterion, ComputeFormat(channels_last=False), per_epoch=9)
images, labels = torch.randn(128, 3, 64, 64), torch.arange(128) % 3
learner.learn(images[:4], labels[:4])
with torch.no_grad():
    expected = criterion(torch.cat([model(piece) for piece in images.split(4)]), labels)
room = psutil.Process().memory_info().vms + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
print(learner.learn(images, labels).item(), expected.item(), learner.micro_batch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is kept on Linux only")
def test_a_cpu_that_has_no_more_memory() -> None:
    """Without injected errors: a process with limited address space learns a batch that needs several times as much."""
    # So that glibc returns each freed tensor to the system, as it does by itself with those of larger models.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", REAL]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    loss, expected, micro_batch = map(float, answer.split())
    assert loss == pytest.approx(expected, rel=1e-5)
    assert 4 <= micro_batch < 128


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_that_has_no_more_memory(config: Make, data: FitData, tmp_path: Path) -> None:
    settings = config(backbone="mobilenetv2_100", image_size=128, batch_size=512, precision="fp32")
    model = build_model(settings, CLASSES).model.to("cuda")
    criterion = build_loss(settings, LABELS, CLASSES)
    learner = Learner(settings, model, criterion, ComputeFormat(), per_epoch=9, cache=tmp_path)
    images, labels = torch.randn(512, 3, 128, 128, device="cuda"), torch.arange(512, device="cuda") % CLASSES
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        losses = [float(learner.learn(images, labels)) for _ in range(5)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert learner.micro_batch is not None
    assert 2 <= learner.micro_batch < 512
    assert losses[-1] < losses[0]
