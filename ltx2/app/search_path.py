"""Hydra plugin: config folders beside the program's own.

The wheel also installs this file as `hydra_plugins/ltx2_search_path.py`, where Hydra finds it for
applications that are not ours: they can then use the groups of `ltx2` in their own configs.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

PROVIDER = "ltx2"


class Ltx2SearchPath(SearchPathPlugin):
    """Adds conf/ of the package, $LTX2_CONFIG_DIR and ./ltx2_configs, where they exist."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from ltx2.app.groups import own_folders
        from ltx2.pipelines.catalogue import conf_folder

        known = {item.path for item in search_path.get_path()}
        for folder in (conf_folder(), *own_folders()):
            path = f"file://{folder}"
            if path not in known and str(folder) not in known:
                search_path.append(PROVIDER, path)
                known.add(path)
