"""Run the service: `python -m shipping_service`."""

from shipping_service.main import service

if __name__ == "__main__":
    service.run()
