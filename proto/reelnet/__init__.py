"""The contract that every Reelnet component shares."""

import os

# Children are started by fork and exec: gRPC's fork handlers would only warn. It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
