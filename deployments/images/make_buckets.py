"""Make the buckets of the compose stack that are not there yet."""

from __future__ import annotations

import sys

import s3fs


def main() -> None:
    """Make one bucket for each name on the command line."""
    store = s3fs.S3FileSystem()
    present = {name.rstrip("/") for name in store.ls("")}
    for bucket in sys.argv[1:]:
        if bucket not in present:
            store.mkdir(bucket)


if __name__ == "__main__":
    main()
