"""Zip archives from strangers: members are read into memory and never unpacked, and only if they can be what they say.

A zip file has a table of its members. The table may say that a thousand members are the same bytes, that a few bytes
unpack to gigabytes, or that a member's name leads out of the folder: then the archive is refused.
"""

from __future__ import annotations

import io
import stat
import zipfile


def open_archive(content: bytes) -> zipfile.ZipFile:
    """The archive in `content`, if its members are stored as they are, stay inside and fit into the file."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = archive.infolist()
    for info in members:
        name = info.orig_filename
        if "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"its member {name!r} leads out of the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"its member {name!r} is a link")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its members are compressed, which neither torch.save nor numpy.savez does")
    if len({info.filename for info in members}) < len(members):
        raise ValueError("it has two members of one name")
    if sum(info.file_size for info in members) > len(content):
        raise ValueError("its members are larger than the file, or overlap")
    return archive
