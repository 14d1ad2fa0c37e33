"""A lab's own defaults for options, from a TOML file (`--config`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..strict import read_toml
from .options import PathOption

NEVER = ("live", "unfamiliar", "config", "debug", "help", "version")
"""Options that no file may give: an arm moves where the command line itself says so."""
_KEPT = "dvgwm.config"


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``command`` with `--config`: a file of defaults for its other options."""
    return click.option(
        "--config",
        type=PathOption(),
        is_eager=True,
        expose_value=False,
        callback=_take,
        help='TOML file of options that are always given, such as robot = "galaxea_a1" (docs/config.md).',
    )(command)


def defaults_in_words(context: click.Context) -> str:
    """Return the path and the options of the file of defaults, in words."""
    kept = context.meta.get(_KEPT)
    if kept is None:
        return "no file of defaults: --config names one"
    path, values = kept
    return f"{path}: {', '.join(f'{key} = {value}' for key, value in values.items()) or 'nothing'}"


def drop_defaults(context: click.Context, options: dict[str, Any], names: tuple[str, ...]) -> None:
    """Reset the ``options`` called ``names`` if only a file gave them: this command does not take them."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT_MAP:
            options[name] = False if isinstance(options[name], bool) else None


def _take(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = {key.replace("-", "_"): value for key, value in read_toml(path).items()}
    except OSError as error:
        raise ConfigError("CONFIG_FILE", f"cannot read {path}: {error.strerror}; name another --config") from None
    except ValueError as error:
        raise ConfigError("CONFIG_FILE", f"{path}: {error}; wanted TOML (docs/config.md)") from None
    root = context.find_root().command
    commands = {"": root, **(root.commands if isinstance(root, click.Group) else {})}
    _check(context, path, values, commands)
    own = {name: _of(command, values) for name, command in commands.items()}
    context.default_map = own[""] | own if context.parent is None else own[context.info_name or ""]
    context.meta[_KEPT] = path, values


def _of(command: click.Command, values: Mapping[str, Any]) -> dict[str, Any]:
    said = {_word(each): each.name for each in command.params if isinstance(each, click.Option) and each.name}
    return {said[word]: value for word, value in values.items() if word in said}


def _word(option: click.Option) -> str:
    """Return an option's name in a file: its long name, with underscores for hyphens."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _check(
    context: click.Context, path: Path, values: Mapping[str, Any], commands: Mapping[str, click.Command]
) -> None:
    """Raise `ConfigError` for a key without an option, or a value of the wrong kind."""
    all_options = (each for command in commands.values() for each in command.params if isinstance(each, click.Option))
    options = {_word(each): each for each in all_options if _word(each) not in NEVER}
    for key, value in values.items():
        if key in NEVER:
            raise ConfigError("CONFIG_KEY", f"{path}: {key} is for the command line alone; take it out")
        if key not in options:
            known = ", ".join(sorted(options))
            raise ConfigError("CONFIG_KEY", f"{path}: {key} is no option that a file may give; known: {known}")
        try:
            if isinstance(value, dict):
                raise click.BadParameter("wanted a value, got a table")
            options[key].type_cast_value(context, value)
        except (click.BadParameter, TypeError) as error:
            said = error.message if isinstance(error, click.BadParameter) else str(error)
            raise ConfigError("CONFIG_VALUE", f"{path}: {key}: {said}") from None
