"""Run the service: `python -m order_service`."""

from order_service.main import service

if __name__ == "__main__":
    service.run()
