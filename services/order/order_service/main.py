"""The order service: what it is made of. Importing it connects to nothing."""

from __future__ import annotations

from covey.service import Parts, Service
from order_service.handlers import router
from order_service.routes import api
from order_service.saga import place_order

service = Service("order", Parts(http=[api], messages=[router], sagas=[place_order]))
