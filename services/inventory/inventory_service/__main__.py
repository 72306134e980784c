"""Run the service: `python -m inventory_service`."""

from inventory_service.main import service

if __name__ == "__main__":
    service.run()
