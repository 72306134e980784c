"""The order service: what it is made of. Importing it connects to nothing."""

from __future__ import annotations

from covey.service import Parts, Service
from order_service.handlers import router
from order_service.routes import api
from order_service.saga.place_order import place_order, place_order_v1
from order_service.saga.return_order import return_order

service = Service("order", Parts(http=[api], messages=[router], sagas=[place_order, place_order_v1, return_order]))
