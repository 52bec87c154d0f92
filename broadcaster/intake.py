"""From an HTTP request to a validated job: body, parameters with every default, media, model, deadline, ceiling.

Everything that can be wrong with a request is found here, before any GPU or money is spent.
"""

from __future__ import annotations
