"""Hydra's search path with the configurations of installed packages: `decoder=theirs` without flags or a fork.

A package names the folder of its `decoder/`, `task/` and `model/` YAMLs by an entry point of the group
`mtad_bench.configs`. Our own options come first, so no package changes what one of our names means. Knows only where
folders lie, refuses to know what is in them, and leaves Hydra's other applications as they are.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

GROUP = "mtad_bench.configs"
CONF = Path(__file__).resolve().parents[1] / "conf"


class InstalledConfigs(SearchPathPlugin):
    """Adds the folders of all installed packages behind ours; found by Hydra itself."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called whenever a search path is made, for whichever application of Hydra."""
        ours = (element.path or "" for element in search_path.get_path() if element.provider == "main")
        if any(Path(path.removeprefix("file://")).resolve() == CONF for path in ours):
            for name, folder in installed(tuple(sys.path)):
                search_path.append(name, f"file://{folder}")


@cache
def installed(path: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Package and folder of every entry point on `sys.path`, here `path`; a broken one is a warning of one line."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        package = entry.dist.name if entry.dist else entry.name
        try:
            found.append((package, _folder(entry)))
        except Exception as error:  # whatever is wrong with another package: other runs need not suffer from it
            reason = str(error).partition("\n")[0] or type(error).__name__
            print(
                f"warning: the configurations of the package {package} are left out: its entry point "
                f"{entry.name} = {entry.value} of {GROUP} does not work ({reason})",
                file=sys.stderr,
            )
    return found


def _folder(entry: EntryPoint) -> Path:
    """The folder of the package that an entry point names, found without running its code. Raises LookupError."""
    top, *below = entry.value.split(".")
    spec = find_spec(top)
    places = [Path(place, *below) for place in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if place.is_dir():
            return place
    raise LookupError(f"there is no package {entry.value}")
