"""The user service: what it is made of. Importing it connects to nothing."""

from __future__ import annotations

from covey.service import Parts, Service
from user_service.routes import api
from user_service.rpc import Users

service = Service("user", Parts(http=[api], grpc=[Users()]))
