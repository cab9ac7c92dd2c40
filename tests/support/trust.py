"""The TLS context of the tests' HTTP clients, which is made once per process.

httpx would make one for each client, which takes 30 ms of CPU time, also for plain HTTP.
"""

import ssl
from typing import Final

TRUSTED: Final = ssl.create_default_context()
