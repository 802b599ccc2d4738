"""Where rows, leases and manifests lie: a local folder or an S3 bucket, through pyarrow."""

from fusion.store.faults import StorageAwayError, StorageError, is_passing
from fusion.store.lease import Lease
from fusion.store.location import Entry, Location
from fusion.store.manifest import Counts, Manifest, add_counts, is_current
from fusion.store.rows import fingerprint_rows
from fusion.store.table import Table

__all__ = [
    "Counts",
    "Entry",
    "Lease",
    "Location",
    "Manifest",
    "StorageAwayError",
    "StorageError",
    "Table",
    "add_counts",
    "fingerprint_rows",
    "is_current",
    "is_passing",
]
