"""What names a chat template in fingerprints."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from bioie_ray.training.chat_template import template_digest


def test_a_file_goes_by_its_text_wherever_it_lies(tmp_path: Path) -> None:
    one, twin, other = (tmp_path / name for name in ("one.jinja", "twin.jinja", "other.jinja"))
    one.write_text("{{ messages }}")
    twin.write_text("{{ messages }}")
    other.write_text("{{ messages }} ")
    assert template_digest(str(one)) == template_digest(str(twin)) != template_digest(str(other))


def test_those_that_ship_go_by_name_and_text(tmp_path: Path) -> None:
    copy = tmp_path / "plain.jinja"
    copy.write_bytes(resources.files("bioie_ray.training").joinpath("templates/plain.jinja").read_bytes())
    assert template_digest("plain") == f"plain {template_digest(str(copy))}"
    assert template_digest("auto") != template_digest("plain")


def test_a_missing_file_is_an_error_and_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.template is .*gone\.jinja.*neither auto nor plain, nor a file that can be read"):
        template_digest(str(tmp_path / "gone.jinja"))
