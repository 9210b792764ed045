"""What names a chat template (``train.template``) in fingerprints; without torch, because planning asks it."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path


def template_digest(template: str) -> str:
    """Of a Jinja file its text; of the others their name, and the text of the one that ships.

    Raises:
        ValueError: it is no file that can be read.
    """
    if template in {"auto", "plain"}:
        plain = resources.files("bioie_ray.training").joinpath("templates/plain.jinja").read_bytes()
        return f"{template} {hashlib.sha256(plain).hexdigest()}"
    try:
        return hashlib.sha256(Path(template).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"train.template is {template!r}: neither auto nor plain, nor a file that can be read ({error.strerror})"
        ) from None
