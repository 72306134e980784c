"""Run the service: `python -m ballot_service`."""

from ballot_service.main import service

if __name__ == "__main__":
    service.run()
