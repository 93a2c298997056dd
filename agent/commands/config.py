"""``tachograph config``: what is in force, and what could be."""

from __future__ import annotations

import argparse
import json

from .options import Subparsers, add_command, add_config_options, load

_EPILOG = """examples:
  tachograph config show                            every setting, secrets masked
  tachograph config show --set namespace=shop
  tachograph config schema > tachograph.schema.json for editors
  tachograph config template > tachograph.yml       a commented file to start from
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "config", "show settings", _EPILOG)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    show_parser = add_command(kinds, "show", "print the settings in force as YAML", _EPILOG)
    add_config_options(show_parser)
    show_parser.set_defaults(handler=show)
    add_command(kinds, "schema", "print the JSON Schema", _EPILOG).set_defaults(handler=schema)
    add_command(
        kinds, "template", "print a commented configuration with all defaults", _EPILOG
    ).set_defaults(handler=template)


def show(args: argparse.Namespace) -> int:
    from ...config.show import show_config

    print(show_config(load(args)), end="")
    return 0


def schema(_: argparse.Namespace) -> int:
    from ...config.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def template(_: argparse.Namespace) -> int:
    from ...config.document import render_template

    print(render_template(), end="")
    return 0
