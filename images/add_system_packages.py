"""Add the packages of the base's Debian or Ubuntu to a CycloneDX SBOM, whose own tool sees Python packages only.

    python3 images/add_system_packages.py SBOM.json

Component and purl forms: https://cyclonedx.org/docs/1.6/json/, https://github.com/package-url/purl-spec (type ``deb``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote


def components(listing: str, distribution: str) -> list[dict[str, str]]:
    """One component for each line ``name<TAB>version<TAB>architecture`` of dpkg-query."""
    found = []
    for line in sorted(listing.splitlines()):
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(version, safe='')}?arch={architecture}"
        found.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return found


def main() -> None:
    """Change the SBOM in place."""
    path = Path(sys.argv[1])
    sbom = json.loads(path.read_text(encoding="utf-8"))
    dpkg = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"]
    listing = subprocess.run(dpkg, capture_output=True, text=True, check=True).stdout
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line)
    sbom["components"] = sbom.get("components", []) + components(listing, release.get("ID", "debian").strip('"'))
    path.write_text(json.dumps(sbom, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
