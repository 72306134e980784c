"""What `covey up` would run. The app is no covey `Service`: it is left out, and started as it always was."""

import sys

sys.exit("crm is started by hand: `covey up --without crm`, and in a second terminal `uvicorn crm:app`")
