"""The user service: what it is made of. Importing it connects to nothing."""

from __future__ import annotations

from datetime import date

from covey.http.versioning import Deprecated
from covey.service import Parts, Service
from user_service.routes import v1, v2
from user_service.rpc import Users

V1_ENDS = Deprecated(since=date(2026, 12, 1), sunset=date(2027, 12, 1), link="/docs")

service = Service("user", Parts(http=[v1.api, v2.api], grpc=[Users()], deprecated={1: V1_ENDS}))
