"""The inventory service: what it is made of. Importing it connects to nothing."""

from __future__ import annotations

from covey.service import Parts, Service
from inventory_service.handlers import router
from inventory_service.routes import api

service = Service("inventory", Parts(http=[api], messages=[router], valkey=True))
