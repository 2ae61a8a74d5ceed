"""Settings: tables laid over each other, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
from diffad_ray.errors import UserError
from diffad_ray.networks.presets import NetworkSizes, network_sizes
from diffad_ray.settings import build, merged, parse_overrides, read_settings, read_settings_file
from diffad_ray.training.settings import TrainingSettings


def test_later_tables_win_key_by_key_and_none_is_not_given() -> None:
    low = {"steps": 1, "seed": 7, "anomalies": {"share": 0.1, "perlin": 1.0}}
    high = {"steps": 2, "seed": None, "anomalies": {"share": 0.2, "spots": None}}
    assert merged(low, {}, high) == {"steps": 2, "seed": 7, "anomalies": {"share": 0.2, "perlin": 1.0}}
    assert low["anomalies"] == {"share": 0.1, "perlin": 1.0}, "the inputs are not changed"
    assert merged({"anomalies": 3}, {"anomalies": {"share": 1}}) == {"anomalies": {"share": 1}}
    assert merged() == {}


def test_overrides_are_read_as_toml_and_bare_words_as_text() -> None:
    pairs = [
        "training.steps=100",
        "detector.anomalies.share = 0.3",
        "detector.mean=[0.1, 0.2, 0.3]",
        "detector.preset=tiny",
        "flag=true",
        'quoted="a=b"',
        "location=s3://plant/a=b",
        "training.steps=200",
    ]
    assert parse_overrides(pairs) == {
        "training": {"steps": 200},
        "detector": {"anomalies": {"share": 0.3}, "mean": [0.1, 0.2, 0.3], "preset": "tiny"},
        "flag": True,
        "quoted": "a=b",
        "location": "s3://plant/a=b",
    }


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["steps"], "'steps' is not of the form key=value"),
        (["=3"], "form key=value"),
        (["a=1", "a.b=2"], "'a' to be a table"),
    ],
)
def test_overrides_that_cannot_be_read_say_so(pairs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_overrides(pairs)


def test_overrides_of_other_sections_are_refused() -> None:
    pairs = ["training.steps=5", "scoring.limit=3"]
    assert parse_overrides(pairs[:1], ("detector", "training")) == {"training": {"steps": 5}}
    with pytest.raises(UserError, match=r"'scoring' is no section .*: write detector.KEY=... or training.KEY=..."):
        parse_overrides(pairs, ("detector", "training"))


@pytest.mark.parametrize("sections", [(), ("detector", "training")])
@pytest.mark.parametrize("pairs", [["detector=5"], ["detector.preset=tiny", "detector=5"]])
def test_a_section_is_no_setting(pairs: list[str], sections: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"'detector' is a section .*: write detector.KEY=..."):
        parse_overrides(pairs, sections)
    assert parse_overrides(['detector={preset="tiny"}'], sections) == {"detector": {"preset": "tiny"}}


def test_build_checks_and_nests() -> None:
    values = {"preset": "tiny", "anomalies": {"share": 0.25, "opacity": [0, 1]}, "mean": [0.1, 0.2, 0.3]}
    settings = build(DiffusionADSettings, values, "detector")
    assert settings.anomalies.share == 0.25
    assert settings.anomalies.opacity == (0.0, 1.0)
    assert settings.mean == (0.1, 0.2, 0.3)
    assert settings.network == network_sizes("tiny", 128)
    assert build(DiffusionADSettings, settings.as_dict(), "detector") == settings


NETWORK = {"channels": 8, "channel_multipliers": [1], "residual_blocks": 1, "attention_sizes": [], "norm_groups": 8}


@pytest.mark.parametrize(
    ("settings_class", "values", "message"),
    [
        (TrainingSettings, {"stepz": 5}, r"\[training\] has no setting 'stepz'; it has .*steps"),
        (TrainingSettings, {"steps": "many"}, r"settings of \[training\]: steps: input should be a valid integer"),
        (TrainingSettings, {"steps": 1.5, "seed": "x"}, "steps: .*; seed: "),
        (TrainingSettings, {"steps": 0}, "steps must be 1 or more, not 0"),
        (TrainingSettings, {"false_alarm_rate": 0}, "false_alarm_rate must lie between 0 and 1"),
        (TrainingSettings, {"learning_rate": 0}, "must be above 0"),
        (TrainingSettings, {"precision": "float16"}, "precision: input should be 'auto'"),
        (DiffusionADSettings, {"preset": "huge"}, "unknown preset 'huge'"),
        (DiffusionADSettings, {"image_size": 100}, "take 96"),
        (DiffusionADSettings, {"anomalies": {"shear": 1}}, r"\[training.anomalies\] has no setting 'shear'; .*share"),
        (DiffusionADSettings, {"anomalies": {"share": "half"}}, "anomalies.share: input should be a valid number"),
        (DiffusionADSettings, {"anomalies": {"share": 2}}, r"anomalies: share 2.0 must lie in \[0, 1\]"),
        (DiffusionADSettings, {"anomalies": 3}, "anomalies: input should be a dictionary"),
        (DiffusionADSettings, {"network": NETWORK}, "segmenter_channels: field required"),
        (DiffusionADSettings, {"network": {**NETWORK, "depth": 3}}, r"\[training.network\] has no setting 'depth'"),
    ],
)
def test_a_wrong_setting_is_named(settings_class: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(settings_class, values, "training")


def test_sizes_of_ones_own(tmp_path: Path) -> None:
    values = {"network": {**NETWORK, "segmenter_channels": 4}, "image_size": 64}
    settings = build(DiffusionADSettings, values, "detector")
    assert isinstance(settings.network, NetworkSizes)
    assert settings.network.segmenter_channels == 4


def test_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "nightly.toml"
    file.write_text('[training]\nsteps = 5\n[detector]\npreset = "tiny"\n[detector.anomalies]\nshare = 0.2\n')
    tables = read_settings_file(str(file))
    assert tables == {"training": {"steps": 5}, "detector": {"preset": "tiny", "anomalies": {"share": 0.2}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trainning]\nsteps = 5", r"holds 'trainning'; it may hold the sections \[detector\], \[training\]"),
        ("steps = 5", "holds 'steps'"),
        ("training = 5", "holds 'training'"),
        ("[training", "can't be read"),
        (None, "can't be read"),
    ],
)
def test_a_settings_file_that_is_not_one_says_so(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "nightly.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"the settings file {file}.*{message}"):
        read_settings_file(str(file))


def test_files_options_and_overrides_are_merged_and_the_last_wins(tmp_path: Path) -> None:
    file = tmp_path / "plant.toml"
    file.write_text('[training]\nsteps = 10\nseed = 1\n[scoring]\nmax_pixels = 5\n[detector]\npreset = "tiny"\n')
    found = read_settings(
        str(file),
        ["training.seed=3"],
        {"training": {"steps": 20, "batch_size": None}},
        ("training", "detector"),
    )
    assert found == {
        "training": {"steps": 20, "seed": 3},
        "scoring": {"max_pixels": 5},
        "detector": {"preset": "tiny"},
    }
    assert read_settings() == {}
    with pytest.raises(UserError, match=r"'scoring' is no section .* write training.KEY=\.\.\."):
        read_settings(overrides=["scoring.max_pixels=5"], sections=("training",))
