"""Who is behind a pseudonym: a map that exists only when somebody asks for it, encrypted, outside of the cohort."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort
from medray.engine import stream
from medray.errors import ConfigError, ImageError, NotFoundError
from medray.formats.dicom import is_dicom
from medray.ingestion.layouts import Layout, named_as
from medray.ingestion.scan import HEAD_BYTES, chunks, header_at
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Naming, naming
from medray.storage.location import Entry, Location, locate

__all__ = ["Identity", "find_identity", "write_identities"]

MAGIC = b"medray identities 1\n"
NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A subject and a study, and what they are called at their source.

    Attributes:
        subject: Pseudonym.
        study: Pseudonym.
        patient: The source's patient identifier, after its issuer where there is one.
        study_uid: The source's study: StudyInstanceUID or the session's folder.
    """

    subject: str
    study: str
    patient: str
    study_uid: str


def write_identities(cohort: Cohort, source: str | Path, target: Path, *, site: str = "") -> int:
    """Write the identities of a cohort's subjects that a source tells, encrypted (AES-256-GCM) under the pseudonym key.

    Args:
        cohort: Whose.
        source: The folder that was taken in.
        target: A file outside of the cohort; made with mode 0600.
        site: As it was given to `medray.ingest`.

    Returns:
        How many subjects were found.

    Raises:
        ConfigError: If the target lies inside the cohort, or there is no key.
    """
    if cohort.root.is_local and target.resolve().is_relative_to(Path(cohort.root.path).resolve()):
        raise ConfigError(f"{target} lies inside the cohort, which is to hold no identities: choose another place")
    names, place = naming(parse_profile(cohort.index.lineage.get("profile", "basic")), site=site), locate(source)
    wanted = {row.study for row in cohort.rows}
    found: set[Identity] = set()
    for some in stream(chunks(place.entries()), lambda chunk: _identities(place, chunk, names)):
        found |= {identity for identity in some if identity.study in wanted}
    plain = json.dumps([asdict(identity) for identity in sorted(found)]).encode()
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = MAGIC + nonce + AESGCM(_key()).encrypt(nonce, plain, MAGIC)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream_:
        stream_.write(sealed)
    subjects = len({identity.subject for identity in found})
    open_trail().record([Event("identities.write", cohort.index.id, detail=f"{subjects} subjects")])
    return subjects


def find_identity(file: Path, pseudonym: str) -> list[Identity]:
    """Return who a subject or a study is.

    Raises:
        NotFoundError: If the file isn't there, or doesn't know the pseudonym.
        ConfigError: If another key wrote it, or it is damaged.
    """
    if not file.is_file():
        raise NotFoundError(f"no file {file}: medray cohort identities writes one")
    data, key = file.read_bytes(), _key()
    start = len(MAGIC) + NONCE_BYTES
    try:
        plain = AESGCM(key).decrypt(data[len(MAGIC) : start], data[start:], MAGIC)
    except (InvalidTag, ValueError):
        raise ConfigError(f"{file} was written with another key, or is damaged") from None
    found = [Identity(**item) for item in json.loads(plain) if pseudonym in {item["subject"], item["study"]}]
    open_trail().record([Event("identities.read", pseudonym, "ok" if found else "unknown")])
    if not found:
        raise NotFoundError(f"{file} doesn't know {pseudonym}")
    return found


def _key() -> bytes:
    config.read_key()  # tells how to make one where there is none
    return config.derived_key("identities")


def _identities(place: Location, chunk: Sequence[Entry], names: Naming) -> set[Identity]:
    found = set()
    for entry in chunk:
        file = place.join(entry.name)
        head = file.read(HEAD_BYTES)
        if not is_dicom(head):
            named = named_as(entry.name, Layout(None, ""))
            study = names.name("study", f"{named.subject}\0{named.study}")
            found.add(Identity(names.name("subject", named.subject), study, named.subject, named.study))
            continue
        try:
            header = header_at(file, head)
        except ImageError:
            continue
        subject, study = names.name("subject", header.subject), names.name("study", header.study)
        found.add(Identity(subject, study, header.subject.replace("\0", " "), header.study))
    return found
