"""gRPC of a service, both ways.

Importing this package has one effect, since grpc reads it when it is imported and never again: its handlers of fork are
left out, unless somebody has asked for them. They would stop the threads of grpc at each `subprocess`, which a server
that is in use does not let them do; with uvloop the output of the new process is then lost now and then. A process that
calls exec needs none of it. `covey.service` imports this before a service can import grpc.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
