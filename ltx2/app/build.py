"""Building the object a config node describes; the only place that instantiates from config."""

from __future__ import annotations

from typing import Any

from ltx2.errors import UserError, nearest

ALLOWED = "ltx2."


def build(node: Any) -> Any:
    """The object of a node with `_target_`, which must name something of this package.

    Raises UserError for any other target, at any depth, and when a package is not installed.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(OmegaConf.create(node), resolve=True)
    for target in _targets(plain):
        _check_target(target)
    try:
        return instantiate(plain, _convert_="all")
    except InstantiationException as error:
        raise _cause(error) from error


def build_table(group: str, table: dict[str, Any]) -> dict[str, Any]:
    """The objects of a table such as `metrics`, by name.

    Raises UserError naming the keys that an object takes when it is given another.
    """
    return {name: _entry(f"{group}.{name}", node) for name, node in table.items()}


def _entry(where: str, node: Any) -> Any:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{where} has no _target_; choose an option of the group")
    given = [key for key in node if not key.startswith("_")]
    _check_target(node["_target_"])
    known = _keys(node["_target_"])
    for key in given:
        if key not in known:
            told = ", ".join(known) or "none"
            raise UserError(f"{where} has no key '{key}'{nearest(key, known)}; its keys: {told}")
    return build(node)


def _keys(target: str) -> list[str]:
    """Names that the constructor of `target` takes."""
    import importlib
    import inspect

    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"_target_={target} does not exist") from None
    return [key for key in inspect.signature(made).parameters if not key.startswith("_")]


def _check_target(target: Any) -> None:
    if not isinstance(target, str) or not target.startswith(ALLOWED):
        raise UserError(f"_target_={target} is refused: only classes below '{ALLOWED}' are built")


def _targets(node: Any) -> list[Any]:
    if isinstance(node, list):
        return [target for item in node for target in _targets(item)]
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + [target for item in node.values() for target in _targets(item)]


def _cause(error: BaseException) -> Exception:
    """The user's mistake inside Hydra's exception, if it is one."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UserError):
            return link
        if isinstance(link, ModuleNotFoundError) and link.name is not None:
            package = link.name.partition(".")[0]
            if package != "ltx2":
                return UserError(
                    f"the package '{package}' is not installed; pip install 'ltx2[{package}]'"
                )
        link = link.__cause__ or link.__context__
    return RuntimeError(str(error))
