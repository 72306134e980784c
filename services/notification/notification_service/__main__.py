"""Run the service: `python -m notification_service`."""

from notification_service.main import service

if __name__ == "__main__":
    service.run()
