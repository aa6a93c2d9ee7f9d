"""`dcu-headend keys`: the keys under which secrets of the database lie. They work on the database itself, also while
the servers run."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import click
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from headend import db, serve
from headend.operator import commands
from headend.sealing import rotation
from headend.sealing.errors import KeyMissingError, SealingError
from headend.sealing.keyring import data_keys


@click.group()
def keys() -> None:
    """The keys under which secrets of the database lie: make the first one, rotate them, list them."""


@keys.command()
@commands.CONFIG
def new(config_path: Path) -> None:
    """Make the first key of a head-end that has none. Keep a copy of it, apart from copies of the database."""
    source = commands.load(config_path).sealing.source()
    try:
        try:
            known = source.ids()
        except KeyMissingError:
            known = []
        if known:
            raise click.ClickException(f"{source.name}: there is a key already ({known[-1]}); see: keys rotate")
        made = source.make()
    except SealingError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{source.name}: key {made} made")


@keys.command()
@commands.CONFIG
def rotate(config_path: Path) -> None:
    """Seal every secret under new keys, then destroy the old ones. Broken off, it is begun again by the same command;
    servers may run meanwhile."""
    config = commands.load(config_path)
    sealed: dict[str, int] = {}
    try:
        engine = serve.open_database(config)
        for step in rotation.rotate(engine, db.metadata):
            if step.rows:
                sealed[step.what] = sealed.get(step.what, 0) + step.rows
            else:
                _tell(sealed)
                click.echo(step.what)
        engine.dispose()
    except serve.ServeError as error:
        click.echo(f"dcu-headend: {error}", err=True)
        sys.exit(commands.EXIT_CONFIGURATION)
    except (SealingError, SQLAlchemyError) as error:
        raise click.ClickException(str(error)) from error


def _tell(sealed: dict[str, int]) -> None:
    for what, count in sealed.items():
        click.echo(f"{what}: {count} sealed anew")
    sealed.clear()


@keys.command(name="list")
@commands.CONFIG
def list_keys(config_path: Path) -> None:
    """List the data keys of the database, and which key opens each."""
    config = commands.load(config_path)
    try:
        engine = serve.open_database(config)
        with db.reader(engine).begin() as connection:
            rows = connection.execute(select(data_keys).order_by(data_keys.c.created)).all()
        engine.dispose()
    except serve.ServeError as error:
        click.echo(f"dcu-headend: {error}", err=True)
        sys.exit(commands.EXIT_CONFIGURATION)
    for row in rows:
        made = dt.datetime.fromtimestamp(row.created, dt.UTC).isoformat(timespec="seconds")
        state = "active" if row.active else "to be retired: keys rotate was broken off"
        click.echo(f"data key {row.id}, made {made}, {state}; key {row.wrapped_by} in {config.sealing.source().name}")
