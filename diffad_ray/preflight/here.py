"""The part of the check on the driver: the first images of the archive, other writers of the table, and a test file."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images.names import is_named_image
from diffad_ray.lists.files import is_list_name
from diffad_ray.preflight.node import Problem
from diffad_ray.scoring.archive import INVENTORY_NAME, open_archive
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import connect
from diffad_ray.table.lease import holder_of
from diffad_ray.table.runs import refuse_other_table

FILES_LOOKED_AT, IMAGES_READ = 10_000, 3
HERE = "driver"
"Name of the process that starts the job, for problems that concern no single node."
DANGLING = "dangling"
"Version of a broken link in a listing."


def table_problems(table: str) -> Iterator[Problem]:
    """Yield a problem if another run writes to the table, or if newer code has written to it."""
    try:
        refuse_other_table(table)
        holder = holder_of(table)
    except UserError as error:
        yield Problem(HERE, str(error))
    except OSError as error:
        yield Problem(HERE, f"{table} can't be read: {error}", storage.may_pass(error))
    else:
        if holder is not None:
            what = (
                f"`diffad-ray {holder.work}` of {holder.host} writes to {table} since {holder.since}: wait for its end"
            )
            yield Problem(HERE, what, passes=True)


@contextmanager
def witness(location: str, problems: list[Problem]) -> Iterator[str]:
    """Write a test file that the nodes must see, and yield its name; the name is empty if it can't be written.

    The file and the folders that were created for it are removed at the end.
    """
    name = f".check-{secrets.token_hex(8)}"
    missing = [folder for folder in _folders(location) if not folder.exists()]
    try:
        storage.write(f"{location}/{name}", name.encode())
    except OSError as error:
        passes = storage.may_pass(error)
        advice = "try again" if passes else "check the location, the credentials and the disk"
        problems.append(Problem(HERE, f"{location} can't be written: {error}: {advice}", passes))
        name = ""
    try:
        yield name
    finally:
        if name:
            storage.delete(f"{location}/{name}")
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _folders(location: str) -> list[Path]:
    """Return the folder at a local location and the folders above it, the innermost first."""
    return [Path(location), *Path(location).parents] if storage.is_local(location) else []


def sample(archive: str, problems: list[Problem]) -> tuple[str, ...]:
    """Return the first images of an archive. The listing of a folder ends as soon as they are found."""
    try:
        if archive.endswith(INVENTORY_NAME) or is_list_name(archive):
            with scratch_folder() as scratch, connect(archive) as connection:
                query = open_archive(archive, connection, scratch).query
                found = connection.execute(f"SELECT uri FROM ({query}) LIMIT {IMAGES_READ}").fetchall()
                return tuple(uri for (uri,) in found)
        files = islice(storage.walk(archive, storage.Omissions()), FILES_LOOKED_AT)
        images = tuple(
            islice((file.uri for file in files if is_named_image(file.uri) and file.version != DANGLING), IMAGES_READ)
        )
    except UserError as error:
        problems.append(Problem(HERE, str(error)))
        return ()
    except OSError as error:
        passes = storage.may_pass(error)
        problems.append(Problem(HERE, f"the archive {archive} can't be read: {error}", passes))
        return ()
    return images
