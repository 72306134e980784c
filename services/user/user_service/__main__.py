"""Run the service: `python -m user_service`."""

from user_service.main import service

if __name__ == "__main__":
    service.run()
