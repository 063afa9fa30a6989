from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpo.errors import UsageError
from hpo.experiments.model_refs import PresetRef, read_model_ref
from hpo.experiments.preset_configs import Overrides, PresetConfig, comparison_trials, preset_configs
from search_spaces import SpaceError, TrialConfig

SCRATCH = "fixed: {backbone: resnet10t, pretrained: false, epochs: 4}\n"
TUNED = "fixed: {backbone: resnet18, epochs: 6}\ndimensions: {dropout: {type: float, low: 0.0, high: 0.2}}\n"
PHASED = "fixed: {backbone: resnet18, epochs: 9, phase1.epochs: 3, phase1.unfreeze_depth: 0.0, phase2.epochs: 6}\n"


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"scratch": SCRATCH, "tuned": TUNED, "phased": PHASED}.items():
        Path(f"{name}.yaml").write_text(text)


def made(*texts: str, **wishes: object) -> dict[str, PresetConfig]:
    presets = [preset for preset in map(read_model_ref, texts) if isinstance(preset, PresetRef)]
    return {one.label.partition(".")[0]: one for one in preset_configs(presets, Overrides(**wishes))}  # type: ignore[arg-type]


@pytest.mark.usefixtures("spaces")
class TestWishes:
    def test_a_backbone_replaces_those_that_start_from_pretrained_weights(self) -> None:
        found = made("scratch.yaml", "tuned.yaml", backbone="mobilenetv2_035")
        assert {name: one.config.backbone for name, one in found.items()} == {
            "scratch": "resnet10t", "tuned": "mobilenetv2_035",
        }  # fmt: skip

    def test_it_does_so_without_their_weights_too(self) -> None:
        tuned = made("tuned.yaml", backbone="mobilenetv2_035", fixed=("pretrained=false",))["tuned"].config
        assert (tuned.backbone, tuned.pretrained) == ("mobilenetv2_035", False)

    def test_weights_of_another_backbone_need_it_named_for_the_same(self, tmp_path: Path) -> None:
        file = tmp_path / "w.safetensors"
        file.write_bytes(b"")
        file.with_suffix(".json").write_text(json.dumps({"architecture": "mobilenetv2_035"}))
        with pytest.raises(UsageError, match="give --backbone mobilenetv2_035"):
            made("scratch.yaml", "tuned.yaml", weights=file)
        found = made("scratch.yaml", "tuned.yaml", weights=file, backbone="mobilenetv2_035")
        assert (found["tuned"].config.backbone, found["tuned"].config.weights) == ("mobilenetv2_035", str(file))
        assert (found["scratch"].config.backbone, found["scratch"].config.weights) == ("resnet10t", None)

    def test_a_change_of_its_own_goes_before_a_wish_for_all(self) -> None:
        found = made(
            "scratch.yaml:epochs=5,batch_size=8", "tuned.yaml:backbone=resnet34", "phased.yaml", epochs=2,
            backbone="resnet26", fixed=("batch_size=16",),
        )  # fmt: skip
        scratch, tuned = found["scratch"].config, found["tuned"].config
        assert (scratch.epochs, scratch.batch_size) == (5, 8)
        assert (tuned.epochs, tuned.batch_size, tuned.backbone) == (2, 16, "resnet34")
        assert found["phased"].config.backbone == "resnet26"

    @pytest.mark.parametrize("preset", ["scratch.yaml", "tuned.yaml:backbone=resnet34"])
    def test_a_backbone_that_no_preset_takes_is_refused(self, preset: str) -> None:
        with pytest.raises(UsageError, match="--backbone resnet26 is for presets that start from pretrained weights"):
            made(preset, backbone="resnet26")

    def test_epochs_scale_phases(self) -> None:
        assert [phase.epochs for phase in made("phased.yaml", epochs=3)["phased"].config.phases] == [1, 2]
        with pytest.raises(SpaceError, match=r"phased\.yaml: .*at least 2"):
            made("phased.yaml", epochs=1)

    def test_an_option_that_a_preset_cannot_take_is_left_out_of_it_alone_and_reported(self) -> None:
        found = made("tuned.yaml", "phased.yaml", fixed=("phase1.learning_rate=1e-3", "image_size=64"))
        assert [text for text, _ in found["tuned"].unused] == ["phase1.learning_rate=1e-3"]
        assert found["phased"].unused == ()
        assert found["phased"].config.phases[0].learning_rate == 1e-3
        assert {one.config.image_size for one in found.values()} == {64}

    @pytest.mark.parametrize("text", ["epochs=many", "colour=red", "phase3.learning_rate=1"])
    def test_what_none_can_take_is_refused(self, text: str) -> None:
        with pytest.raises((UsageError, SpaceError), match=text.partition("=")[0]):
            made("tuned.yaml", "scratch.yaml", fixed=(text,))

    def test_a_wrong_change_of_its_own_names_the_preset(self) -> None:
        with pytest.raises(SpaceError, match=r"tuned\.yaml:dropout=2: dropout"):
            made("tuned.yaml:dropout=2")


def test_the_trial_list_has_all_trials_of_one_seed_before_the_next() -> None:
    config = TrialConfig(backbone="resnet18")
    found = comparison_trials([PresetConfig("a", config), PresetConfig("b", config)], seeds=2)
    assert [(entry.name, entry.seed) for entry in found.entries] == [
        ("a, seed 0", 0), ("b, seed 0", 0), ("a, seed 1", 1), ("b, seed 1", 1),
    ]  # fmt: skip
    assert [entry.name for entry in comparison_trials([PresetConfig("a", config)], seeds=1).entries] == ["a"]
