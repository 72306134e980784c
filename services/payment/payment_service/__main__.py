"""Run the service: `python -m payment_service`."""

from payment_service.main import service

if __name__ == "__main__":
    service.run()
