"""Settings from Python: what `launch.py` would run with the same overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2.app.overrides import with_free_keys, with_lora_entries
from ltx2.errors import UserError
from ltx2.pipelines.catalogue import conf_folder

if TYPE_CHECKING:
    from ltx2.app.schema import Root


def compose(overrides: Sequence[str] = ()) -> Root:
    """The settings for `overrides` such as ["model=dev", "seed=3"], every reference resolved.

    Hydra's state of a surrounding application is kept. Raises Hydra's own composition errors.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from ltx2.app.schema import register_schema, settings_of

    register_schema()
    # A private state: initialising twice in one process is an error in Hydra.
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            written = with_free_keys(with_lora_entries(list(overrides)))
            return settings_of(hydra.compose("config", overrides=written))
    finally:
        GlobalHydra.instance().hydra = before


def recorded(path: str | Path) -> Root:
    """The settings of a finished run from its `config.yaml`: running them again repeats the run.

    Raises UserError for a file that is no such record.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from ltx2.app.schema import MlxSettings, Root, TorchSettings, settings_of

    base = OmegaConf.structured(Root)
    try:
        given = OmegaConf.load(path)
        is_mlx = str(OmegaConf.select(given, "backend._target_")).endswith("MlxBackend")
        base.backend = MlxSettings if is_mlx else TorchSettings
        merged = OmegaConf.merge(base, given)
        assert isinstance(merged, DictConfig)
        return settings_of(merged)
    except (OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not the config.yaml of a run ({reason})") from None
