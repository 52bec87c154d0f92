"""What a hub's licence tag says: an SPDX id, and whether the model may be used commercially."""

from __future__ import annotations

import re

from reelnet.jobs import Licence

YES, NO, CONDITIONAL, UNKNOWN = "yes", "no", "conditional", "unknown"
_FREE = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "isc": "ISC",
    "zlib": "Zlib",
    "unlicense": "Unlicense",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsl-1.0": "BSL-1.0",
    "mpl-2.0": "MPL-2.0",
    "gpl-3.0": "GPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "cc0-1.0": "CC0-1.0",
    "cc-by-3.0": "CC-BY-3.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-3.0": "CC-BY-SA-3.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
}
_WITH_CONDITIONS = frozenset(
    {
        "openrail",
        "openrail++",
        "creativeml-openrail-m",
        "bigscience-openrail-m",
        "bigcode-openrail-m",
        "gemma",
        "llama2",
        "llama3",
        "stable-video-diffusion-community",
        "stabilityai-ai-community",
    }
)
"""Licences with rules of use or a limit of turnover: commercial use is allowed to those who keep to them."""
_NOT_COMMERCIAL = re.compile(r"(^|[-_])(nc|non-?commercial|research)([-_]|$)")


def licence_of(tag: object, name: object = None) -> Licence:
    """The licence of a hub's `license` tag; `name` is `license_name`, which stands beside the tag `other`."""
    text = str(name if tag in ("other", None) and name else tag or "").strip().lower()
    if not text or text in ("other", "unknown"):
        return Licence()
    if text in _FREE:
        return Licence(_FREE[text], YES)
    return Licence(_identifier(text), _commercial(text))


def spdx(text: str) -> str:
    """An SPDX id as an operator writes it: known ones in their own spelling, others as LicenseRef."""
    if text.startswith("LicenseRef-"):
        return _identifier(text.removeprefix("LicenseRef-"))
    known = {spelling.lower(): spelling for spelling in _FREE.values()} | _FREE
    return known.get(text.lower()) or _identifier(text)


def _identifier(text: str) -> str:
    if re.match(r"cc-by-nc(-(sa|nd))?-\d\.\d$", text):
        return text.upper()
    return "LicenseRef-" + (
        re.sub(r"[^A-Za-z0-9.-]+", "-", text.replace("++", "-plus-plus")).strip("-")[:80] or "unknown"
    )


def _commercial(text: str) -> str:
    if text in _WITH_CONDITIONS:
        return CONDITIONAL
    return NO if _NOT_COMMERCIAL.search(text) else UNKNOWN
