"""Results addressed by content, written whole or not at all, and the records that go into them."""

from medvision.store.files import atomic_write, make_output, safe_name, safe_names
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import (
    Attempt,
    AttemptEnd,
    PastResult,
    RunDetail,
    RunEnd,
    RunStart,
    RunSummary,
    SlideDetail,
)
from medvision.store.manifest import Manifest, ResultSpec, read_manifest, verify
from medvision.store.provenance import code_digest, new_run_id, software_versions, utc_now
from medvision.store.store import Entry, ResultStore, publish_folder

__all__ = [
    "LEDGER",
    "Attempt",
    "AttemptEnd",
    "Entry",
    "Ledger",
    "Manifest",
    "PastResult",
    "ResultSpec",
    "ResultStore",
    "RunDetail",
    "RunEnd",
    "RunStart",
    "RunSummary",
    "SlideDetail",
    "atomic_write",
    "code_digest",
    "make_output",
    "new_run_id",
    "publish_folder",
    "read_manifest",
    "safe_name",
    "safe_names",
    "software_versions",
    "utc_now",
    "verify",
]
